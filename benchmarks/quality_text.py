"""What 4-bit weights cost a language model of realistic width: cosine of its states against the unquantized ones.

    python -m hvlite.benchmarks.quality_text --width 2048 --layers 12

The demo's language model is too narrow to stand for an 8B one: a block of 64 weights is a whole row of it. This one has
Llama's proportions and random weights as trained ones are spread: normal, with rows and columns of different sizes
(log-normal, sigma 0.3), and the projections back to the stream smaller by the square root of twice the depth. The
embeddings are so large that a layer changes the stream by about a fifth of its norm, which is what trained Llamas do
(neighbouring states have cosines of 0.95 and more); in a net of random layers that overwrite the stream any error grows
from layer to layer. The share is measured and printed.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from ..lite.text import _load_llm
from ..quantize.convert import QuantizeOptions, run_quantize
from ..quantize.readers.shapes import Shapes, expected_llama_shapes
from ..quantize.readers.tensor_file import TensorInfo
from ..quantize.source import open_text_encoder
from ..quantize.writer import write_safetensors
from .make_full_size import LLAMA, write_json
from .random_tokenizers import write_llama_tokenizer

SCHEMES = ("int8", "nf4", "int4", "int4:mse")
SPREAD = 0.02
EMBEDDING_SPREAD = 0.4
VOCABULARY = 8192
TOKENS = 64


def write_llama(folder: Path, width: int, layers: int) -> None:
    """A random Llama in transformers' form, fp16."""
    heads = width // 128
    sizes = {"hidden_size": width, "intermediate_size": width * 7 // 2, "num_hidden_layers": layers}
    config: dict[str, Any] = {**LLAMA, **sizes, "vocab_size": VOCABULARY}
    config |= {"num_attention_heads": heads, "num_key_value_heads": max(1, heads // 4), "architectures": ["LlamaModel"]}
    folder.mkdir(parents=True)
    shapes = expected_llama_shapes(config)
    layout = {name: TensorInfo("F16", shape) for name, shape in shapes.items()}
    write_safetensors(folder / "model.safetensors", layout, _weights(shapes, layers))
    write_json(folder / "config.json", config)
    write_llama_tokenizer(folder, VOCABULARY)


def _weights(shapes: Shapes, layers: int) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        if len(shape) == 1:
            yield name, torch.ones(shape, dtype=torch.float16)
            continue
        rows, columns = (torch.randn(size, generator=generator).mul(0.3).exp() for size in shape)
        weight = torch.randn(shape, generator=generator) * SPREAD * rows[:, None] * columns
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight /= math.sqrt(2 * layers)
        if name == "embed_tokens.weight":
            weight *= EMBEDDING_SPREAD / SPREAD
        yield name, weight.to(torch.float16)


@torch.no_grad()
def states(folder: Path, ids: Tensor) -> tuple[Tensor, float]:
    """The states the transformer would read, [B, S, hidden], in fp32; and how much of its norm a layer changes."""
    with open_text_encoder(folder) as source:
        model = _load_llm(source, torch.device("cpu"), torch.float32, None)
    run = model(input_ids=ids, use_cache=False, output_hidden_states=True)
    steps = pairwise(run.hidden_states)
    shares = [float((after - before).norm() / before.norm()) for before, after in steps]
    found: Tensor = run.last_hidden_state
    return found, mean(shares)


def measure(width: int, layers: int, work: Path) -> dict[str, Any]:
    """Mean and least cosine over the tokens, for every scheme."""
    write_llama(work / "source", width, layers)
    ids = torch.randint(VOCABULARY, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    wanted, share = states(work / "source", ids)
    results = {}
    for scheme in SCHEMES:
        output = work / scheme.replace(":", "-")
        options = QuantizeOptions(work / "source", output, text_encoder=scheme, parts=("text_encoder",))
        run_quantize(options)
        cosines = torch.nn.functional.cosine_similarity(states(output, ids)[0], wanted, dim=-1)
        results[scheme] = {"mean_cosine": float(cosines.mean()), "least_cosine": float(cosines.min())}
    sizes = {"width": width, "layers_run": layers - 2, "tokens": TOKENS, "change_by_layer": round(share, 3)}
    return {**sizes, "schemes": results}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        print(json.dumps(measure(arguments.width, arguments.layers, Path(work)), indent=1))


if __name__ == "__main__":
    main()
