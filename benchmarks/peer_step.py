"""One denoising step of the 13B model with random weights, by hvlite or by diffusers, in a process of its own.

    python -m hvlite.benchmarks.peer_step diffusers 720x1280x129 --mode group-offload --attention native

Modes of diffusers: resident (bf16), group-offload (blocks from page-locked memory, with a stream), torchao-fp8 and
torchao-int8 (weights only, resident). hvlite runs as its plan says, under --vram-limit where given. Prints JSON: times
of steps, peaks, whether the output was finite.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..lite.device import probe_device
from ..lite.planning.limits import parse_bytes
from ..quantize.architecture import TransformerConfig
from .bench_stream import step_function
from .cases import NARROW_BLOCKS, Case
from .diffusers_tree import diffusers_config
from .random_model import random_embeds
from .run_planned import make_run, parse_case
from .suite import cap_device
from .timing import time_work
from .watch import Watch

MODES = ("resident", "group-offload", "torchao-fp8", "torchao-int8")
STEPS = 3


@contextmanager
def hvlite_step(case: Case, arguments: argparse.Namespace) -> Iterator[Callable[[], Tensor]]:
    """A step as the plan for this card has it."""
    planned = make_run(case, arguments.vram_limit, arguments.device, STEPS, narrow=arguments.narrow)
    with tempfile.TemporaryDirectory(prefix="hvlite-bench-") as work, planned.transformer(Path(work)) as transformer:
        yield step_function(transformer, case, planned.plan.token_chunk)


@contextmanager
def diffusers_step(case: Case, arguments: argparse.Namespace) -> Iterator[Callable[[], Tensor]]:
    """The same step through HunyuanVideoTransformer3DModel."""
    device = probe_device(arguments.device).device
    cap_device(device, None if arguments.vram_limit is None else parse_bytes("--vram-limit", arguments.vram_limit))
    config = NARROW_BLOCKS if arguments.narrow else TransformerConfig()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    offloaded = arguments.mode == "group-offload"
    model = _random_diffusers(config, torch.device("cpu") if offloaded else device, dtype)
    _apply_mode(model, arguments.mode, device)
    if arguments.attention != "native":
        model.set_attention_backend(arguments.attention)
    yield partial(_forward, model, _diffusers_inputs(config, case, device, dtype))


def _random_diffusers(config: TransformerConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """The model on `device`, made there tensor by tensor."""
    diffusers: Any = import_module("diffusers")
    fields = {name: value for name, value in diffusers_config(config).items() if not name.startswith("_")}
    with torch.device("meta"):
        model = diffusers.HunyuanVideoTransformer3DModel(**fields)
    model = model.to(dtype).to_empty(device=device).eval()
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.fill_(0.02)
            else:
                parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
    return model


def _apply_mode(model: Any, mode: str, device: torch.device) -> None:
    if mode == "group-offload":
        model.enable_group_offload(
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type="block_level",
            num_blocks_per_group=1,
            use_stream=True,
            record_stream=True,
        )
    elif mode.startswith("torchao"):
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

        quantize_(model, Float8WeightOnlyConfig() if mode.endswith("fp8") else Int8WeightOnlyConfig())


def _diffusers_inputs(
    config: TransformerConfig, case: Case, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    text = random_embeds(config, case.text_tokens)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, config.in_channels, *case.latent_shape, generator=generator)
    return {
        "hidden_states": latents.to(device, dtype),
        "timestep": torch.tensor([1000.0], device=device),
        "encoder_hidden_states": text.prompt_embeds.to(device, dtype),
        "encoder_attention_mask": text.prompt_mask.to(device),
        "pooled_projections": text.pooled_prompt_embeds.to(device, dtype),
        "guidance": torch.tensor([6000.0], device=device, dtype=dtype),
    }


@torch.no_grad()
def _forward(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    out: Tensor = model(**inputs, return_dict=False)[0]
    return out


MAKERS = {"hvlite": hvlite_step, "diffusers": diffusers_step}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("maker", choices=MAKERS)
    parser.add_argument("case", type=parse_case)
    parser.add_argument("--mode", choices=MODES, default="resident")
    parser.add_argument("--attention", default="native", help="a backend of diffusers' set_attention_backend")
    parser.add_argument("--vram-limit")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--narrow", action="store_true", help="a small transformer, to try this out")
    arguments = parser.parse_args()
    device = probe_device(arguments.device).device
    with Watch(device) as watch, MAKERS[arguments.maker](arguments.case, arguments) as step:
        finite = bool(torch.isfinite(step()).all())  # the warm-up as well
        seconds = time_work(step, device, repeats=STEPS, warm_up=0)
    json.dump({"finite": finite, "seconds": asdict(seconds), "peaks": asdict(watch.peaks())}, sys.stdout)


if __name__ == "__main__":
    main()
