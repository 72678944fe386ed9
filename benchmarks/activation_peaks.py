"""What a transformer holds at most beside its weights, by PyTorch's own accounting of fake tensors.

Two scopes, each for hvlite and for diffusers:

step    a whole forward: the latents, the velocity of the step before, the text, timestep and guidance that go in,
        rotary tables, modulation, everything made on the way, the velocity that comes out
blocks  a double block, then a single block: the tokens, and everything made on the way; rotary tables and the vectors
        that modulation comes from were there before and are not counted

Call these inside a FakeTensorMode; hvlite's blocks run as on a card inside `kernels_on_fakes`, else as on a CPU. What
an operator takes and frees inside itself (a workspace) is seen on neither side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..lite.arithmetic import Arithmetic
from ..lite.attention import Attention
from ..lite.models.blocks import Modulation, Rope
from ..lite.models.chunked import Sequence, run_double, run_single
from ..lite.models.linear import QuantLinear
from ..lite.models.transformer import HunyuanVideoTransformer
from ..lite.streaming.transformer_blocks import LoadedTransformer, ResidentBlocks
from ..lite.text import PromptEmbeds
from ..lite.velocity import Velocity
from ..quantize.architecture import TransformerConfig
from .cases import Case
from .diffusers_tree import diffusers_config
from .measure import AllocationTracker

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Measured:
    """What was held at most, and the operator that made the last of it."""

    nbytes: int
    operator: str


def built(make: Callable[[], Module], dtype: torch.dtype) -> Module:
    """A module with parameters of `dtype`: a fake one cannot be cast."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return make().eval()
    finally:
        torch.set_default_dtype(before)


def build_transformer(
    config: TransformerConfig,
    dtype: torch.dtype,
    codes: torch.dtype | None = None,
    arithmetic: Arithmetic = "dequantize",
) -> HunyuanVideoTransformer:
    """hvlite's transformer; with `codes` (int8 or e4m3fn) the linear layers of its blocks but for modulation."""
    model = built(lambda: HunyuanVideoTransformer(config), dtype)
    for block in (*model.double_blocks, *model.single_blocks) if codes is not None else ():
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear) and "mod" not in name:
                weight, scale = torch.empty_like(layer.weight, dtype=codes), torch.empty(layer.out_features)
                block.set_submodule(name, QuantLinear(weight, scale, layer.bias, arithmetic))
    return model


def build_diffusers(config: TransformerConfig, dtype: torch.dtype) -> Any:
    """diffusers' HunyuanVideoTransformer3DModel of the same architecture."""
    diffusers: Any = import_module("diffusers")
    fields = {name: value for name, value in diffusers_config(config).items() if not name.startswith("_")}
    return built(lambda: diffusers.HunyuanVideoTransformer3DModel(**fields), dtype)


class _Count:
    """What was held at most since the scope began."""

    def __init__(self, memory: AllocationTracker) -> None:
        self._memory, self._before = memory, memory.live_bytes
        memory.restart()

    def result(self) -> Measured:
        return Measured(self._memory.peak_bytes - self._before, self._memory.peak_operator)


@contextmanager
def _beside(*tensors: Tensor) -> Iterator[_Count]:
    """Counts what is made in this scope; `tensors` and the weights among them were there before."""
    with torch.no_grad(), AllocationTracker() as memory:
        memory.hold(tensors)
        yield _Count(memory)


# hvlite


def step_peak(
    model: HunyuanVideoTransformer, case: Case, chunk: int, attention: Attention, steps: int = 50
) -> Measured:
    """A step as `sampling.denoise` runs it from the second one on: the velocity of the one before is still there.

    The modulation of all `steps` is there as well: it takes the place of modulation's weights.
    """
    config, dtype = model.config, model.dtype
    all_valid: Any = None  # a mask of ones would be read, and a fake one has no values
    with _beside(*model.parameters(), *model.buffers()) as count:
        embeds = PromptEmbeds(
            torch.empty(1, case.text_tokens, config.text_states_dim, dtype=dtype),
            all_valid,
            torch.empty(1, config.text_states_dim_2, dtype=dtype),
        )
        velocity = Velocity(
            LoadedTransformer(model, ResidentBlocks(model)),
            embeds,
            torch.empty(steps),
            torch.empty(1, dtype=dtype),
            token_chunk=chunk,
            attention=attention,
        )
        latents, before = (torch.empty(1, config.in_channels, *case.latent_shape) for _ in range(2))
        velocity(latents, 0)
        del latents, before
        return count.result()


def blocks_peak(model: HunyuanVideoTransformer, case: Case, chunk: int, attention: Attention) -> Measured:
    """The first block of each kind over token chunks."""
    row, one, rope = _given(model, case)
    with _beside(*model.parameters(), *model.buffers(), row, rope.cos, rope.sin) as count:
        counts = (1, case.video_tokens, case.text_tokens)
        sequence = Sequence.allocate(model.config, *counts, rope, row, chunk, attention)
        run_double(model.doubles[0], sequence, ((one, one), (one, one)))
        run_single(model.singles[0], sequence, one)
        return count.result()


def whole_blocks_peak(model: HunyuanVideoTransformer, case: Case) -> Measured:
    """The same blocks over all tokens at once, as the official code runs them: what chunks are there to avoid."""
    row, one, rope = _given(model, case)
    with _beside(*model.parameters(), *model.buffers(), row, rope.cos, rope.sin) as count:
        video, text = (row.new_empty(1, each, row.shape[1]) for each in (case.video_tokens, case.text_tokens))
        video, text = model.doubles[0](video, text, ((one, one), (one, one)), rope)
        tokens = torch.cat([video, text], dim=1)
        del video, text
        model.singles[0](tokens, one, rope)
        return count.result()


def _given(model: HunyuanVideoTransformer, case: Case) -> tuple[Tensor, Modulation, Rope]:
    """A row of the residual stream [1, hidden], a modulation of such rows, and rotary tables."""
    row = torch.empty(1, model.config.hidden_size, dtype=model.dtype)
    cos, sin = (torch.empty(case.video_tokens, model.config.head_dim // 2) for _ in range(2))
    return row, Modulation(row, row, row), Rope(cos, sin)


# diffusers


def diffusers_step_peak(model: Any, case: Case) -> Measured:
    """Its forward, called as its pipeline does: the latents in fp32 and as the transformer's dtype, a whole mask."""
    config, dtype = model.config, model.dtype
    with _beside(*model.parameters(), *model.buffers()) as count:
        latents, before = (torch.empty(1, config.in_channels, *case.latent_shape) for _ in range(2))
        inputs = {
            "hidden_states": latents.to(dtype),
            "timestep": torch.empty(1),
            "encoder_hidden_states": torch.empty(1, case.text_tokens, config.text_embed_dim, dtype=dtype),
            "encoder_attention_mask": torch.ones(1, case.text_tokens, dtype=torch.int64),
            "pooled_projections": torch.empty(1, config.pooled_projection_dim, dtype=dtype),
            "guidance": torch.empty(1, dtype=dtype),
        }
        model(**inputs, return_dict=False)
        del latents, before
        return count.result()


def diffusers_blocks_peak(model: Any, case: Case) -> Measured:
    """Its first block of each kind; the mask [1, 1, 1, S] that its forward makes is there as well."""
    hidden = model.config.num_attention_heads * model.config.attention_head_dim
    vector = torch.empty(1, hidden, dtype=model.dtype)
    rope = model.rope(torch.empty(1, model.config.in_channels, *case.latent_shape))
    mask = torch.ones(1, 1, 1, case.tokens, dtype=torch.bool)
    with _beside(*model.parameters(), *model.buffers(), vector, *rope, mask) as count:
        video, text = (vector.new_empty(1, each, hidden) for each in (case.video_tokens, case.text_tokens))
        for block in (model.transformer_blocks[0], model.single_transformer_blocks[0]):
            video, text = block(video, text, vector, mask, rope)
        return count.result()
