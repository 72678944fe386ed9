"""Writes a random checkpoint with the exact names, shapes and element types of the official one, part by part.

    python -m hvlite.benchmarks.make_full_size FOLDER --part transformer

Nobody can test a conversion of 40 GB without 40 GB; these weights need no download. The values are normal with the
spread of a trained layer, a few rows larger than the rest; the tokenizers have the real sizes and special tokens. Disk:
transformer 25.6 GB, text_encoder 16.1 GB, vae 1 GB, text_encoder_2 0.5 GB. Peak memory stays below 2 GB.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..quantize.architecture import TransformerConfig, VaeConfig
from ..quantize.readers.shapes import (
    Shapes,
    expected_clip_text_shapes,
    expected_llama_shapes,
    expected_transformer_shapes,
    expected_vae_shapes,
)
from ..quantize.readers.tensor_file import TensorInfo
from ..quantize.writer import write_safetensors
from .random_tokenizers import write_clip_tokenizer, write_llama_tokenizer

POOL_ELEMENTS = 1 << 24
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128320,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "hidden_act": "silu",
    "torch_dtype": "float16",
}
CLIP = {
    "model_type": "clip_text_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "hidden_act": "quick_gelu",
    "eos_token_id": 2,
}
SMALL_TRANSFORMER = TransformerConfig(
    hidden_size=128,
    heads_num=1,
    mm_double_blocks_depth=2,
    mm_single_blocks_depth=3,
    text_states_dim=128,
    text_states_dim_2=128,
)
SMALL_VAE = VaeConfig(block_out_channels=(32, 32, 64, 64), layers_per_block=1)
SMALL_TEXT = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
SMALL_TEXT |= {"vocab_size": 1024, "num_key_value_heads": 2}


class RandomWeights:
    """Tensors by shape: slices of one pool of normal numbers, each from another place, scaled as a trained layer is."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._pool = torch.randn(POOL_ELEMENTS, generator=generator, dtype=torch.float32).to(torch.bfloat16)
        self._generator = generator

    def make(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """1 + small numbers for a vector; normal / sqrt(fan-in) for a matrix, some rows five times as large."""
        tensor = self._slice(math.prod(shape)).view(shape)
        if len(shape) < 2:
            return (tensor.mul_(0.02) + 1).to(dtype)
        tensor *= 1 / math.sqrt(math.prod(shape[1:]))
        tensor[:: max(1, shape[0] // 16)] *= 5
        return tensor.to(dtype)

    def _slice(self, count: int) -> Tensor:
        result = torch.empty(count, dtype=torch.bfloat16)
        start = int(torch.randint(POOL_ELEMENTS, (1,), generator=self._generator))
        done = 0
        while done < count:
            piece = self._pool[start : start + count - done]
            result[done : done + len(piece)] = piece
            done, start = done + len(piece), 0
        return result


def make_part(part: str, folder: Path, *, small: bool = False) -> Path:
    """Write one part below `folder`, where the official tree has it; returns the folder of the part."""
    makers: dict[str, Callable[[Path, RandomWeights, bool], Path]] = {
        "transformer": _make_transformer,
        "vae": _make_vae,
        "text_encoder": _make_llama,
        "text_encoder_2": _make_clip,
    }
    torch.set_num_threads(1)
    return makers[part](folder, RandomWeights(), small)


def _make_transformer(folder: Path, weights: RandomWeights, small: bool) -> Path:
    return make_transformer(folder, SMALL_TRANSFORMER if small else TransformerConfig(), weights)


def make_transformer(folder: Path, config: TransformerConfig, weights: RandomWeights) -> Path:
    """Write a transformer of any shape where the official tree has it; returns its folder."""
    shapes = expected_transformer_shapes(config)
    path = folder / "hunyuan-video-t2v-720p" / "transformers" / "mp_rank_00_model_states.pt"
    write_torch(path, shapes, torch.bfloat16, weights, wrap=lambda state: {"module": state})
    return path.parent


def _make_vae(folder: Path, weights: RandomWeights, small: bool) -> Path:
    config = SMALL_VAE if small else VaeConfig()
    path = folder / "hunyuan-video-t2v-720p" / "vae" / "pytorch_model.pt"
    write_torch(path, expected_vae_shapes(config), torch.float32, weights, wrap=lambda state: state)
    fields = {"block_out_channels": config.block_out_channels, "layers_per_block": config.layers_per_block}
    write_json(path.parent / "config.json", {"_class_name": "AutoencoderKLCausal3D", **fields})
    return path.parent


def _make_llama(folder: Path, weights: RandomWeights, small: bool) -> Path:
    config: dict[str, Any] = {**LLAMA, **(SMALL_TEXT if small else {})}
    shapes = {f"model.{name}": shape for name, shape in expected_llama_shapes(config).items()}
    shapes["lm_head.weight"] = (config["vocab_size"], config["hidden_size"])
    path = folder / "text_encoder" / "model.safetensors"
    _write_plain(path, shapes, "F16", torch.float16, weights)
    write_json(path.parent / "config.json", config)
    write_llama_tokenizer(path.parent, config["vocab_size"])
    return path.parent


def _make_clip(folder: Path, weights: RandomWeights, small: bool) -> Path:
    config: dict[str, Any] = {**CLIP, **(SMALL_TEXT if small else {})}
    shapes = {f"text_model.{name}": shape for name, shape in expected_clip_text_shapes(config).items()}
    path = folder / "text_encoder_2" / "model.safetensors"
    _write_plain(path, shapes, "F32", torch.float32, weights)
    write_json(path.parent / "config.json", config)
    write_clip_tokenizer(path.parent, config["vocab_size"])
    return path.parent


def _write_plain(path: Path, shapes: Shapes, name: str, dtype: torch.dtype, weights: RandomWeights) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    layout = {key: TensorInfo(name, shape) for key, shape in shapes.items()}
    write_safetensors(path, layout, ((key, weights.make(shape, dtype)) for key, shape in shapes.items()))


def write_torch(
    path: Path, shapes: Shapes, dtype: torch.dtype, weights: RandomWeights, wrap: Callable[[dict[str, Tensor]], Any]
) -> None:
    """A `.pt` file as torch.save writes it, larger than the memory: first without its data, which are filled in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.serialization.skip_data():
        torch.save(wrap({name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}), path)
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for shape, offset in zip(shapes.values(), _storage_offsets(path), strict=True):
            _write_all(fd, weights.make(shape, dtype), offset)
    finally:
        os.close(fd)


def _storage_offsets(path: Path) -> Iterator[int]:
    """Where the data of the storages begin, in the order they were saved."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        entries = [entry for entry in archive.infolist() if entry.filename.rpartition("/")[0].endswith("/data")]
        for entry in sorted(entries, key=lambda entry: int(entry.filename.rpartition("/")[2])):
            file.seek(entry.header_offset + 26)
            name_bytes, extra_bytes = (int.from_bytes(file.read(2), "little") for _ in range(2))
            yield entry.header_offset + 30 + name_bytes + extra_bytes


def _write_all(fd: int, tensor: Tensor, offset: int) -> None:
    data = tensor.reshape(-1).view(torch.uint8).numpy().data
    while data:
        written = os.pwrite(fd, data[: 1 << 30], offset)
        data, offset = data[written:], offset + written


def write_json(path: Path, value: object) -> None:
    """Indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", required=True, choices=("transformer", "vae", "text_encoder", "text_encoder_2"))
    parser.add_argument("--small", action="store_true", help="the same layout with tiny shapes")
    arguments = parser.parse_args()
    print(make_part(arguments.part, arguments.folder, small=arguments.small))


if __name__ == "__main__":
    main()
