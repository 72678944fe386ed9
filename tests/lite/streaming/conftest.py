"""A small transformer as hvlite folders, one per scheme, and a few steps of denoising with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hvlite.lite.models.transformer import HunyuanVideoTransformer
from hvlite.lite.sampling import denoise, flow_schedule, guidance_input
from hvlite.lite.streaming.transformer_blocks import LoadedTransformer
from hvlite.lite.text import PromptEmbeds
from hvlite.lite.velocity import Velocity
from hvlite.quantize.architecture import TransformerConfig
from hvlite.quantize.convert import QuantizeOptions, run_quantize

CONFIG = TransformerConfig(
    hidden_size=32,
    heads_num=2,
    mm_double_blocks_depth=3,
    mm_single_blocks_depth=5,
    rope_dim_list=(4, 6, 6),
    text_states_dim=8,
    text_states_dim_2=8,
    refiner_depth=1,
)
STEPS = 3


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small transformer, bf16, in one file."""
    torch.manual_seed(5)
    model = HunyuanVideoTransformer(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    source = tmp_path_factory.mktemp("source") / "transformer.safetensors"
    save_file({name: tensor.detach().bfloat16() for name, tensor in model.state_dict().items()}, source)
    return source


@pytest.fixture(scope="session")
def folder(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """folder(scheme): the small transformer as `hvlite quantize` writes it."""
    made: dict[str, Path] = {}

    def make(scheme: str) -> Path:
        if scheme not in made:
            output = tmp_path_factory.mktemp("models") / scheme
            options = QuantizeOptions(
                source,
                output,
                transformer=scheme,
                parts=("transformer",),
                model_config={"rope_dim_list": list(CONFIG.rope_dim_list)},
                workers=1,
            )
            run_quantize(options)
            made[scheme] = output
        return made[scheme]

    return make


@pytest.fixture(scope="session")
def latents_of() -> Callable[..., list[torch.Tensor]]:
    """latents_of(transformer, start=None): the latents after each step; `start` is (steps done, latents)."""

    def run(transformer: LoadedTransformer, start: tuple[int, torch.Tensor] | None = None) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        embeds = PromptEmbeds(
            prompt_embeds=torch.randn(1, 7, 8, generator=generator),
            prompt_mask=torch.ones(1, 7, dtype=torch.int64),
            pooled_prompt_embeds=torch.randn(1, 8, generator=generator),
        )
        noise = torch.randn(1, 16, 2, 4, 6, generator=generator)
        schedule = flow_schedule(STEPS, 7.0)
        done, latents = start or (0, noise)
        with torch.no_grad():
            guidance = guidance_input(6.0, transformer.dtype)
            velocity = Velocity(transformer, embeds, schedule.timesteps, guidance, token_chunk=16)
            return [each.cpu() for _, each in denoise(velocity, latents.to(transformer.device), schedule, start=done)]

    return run
