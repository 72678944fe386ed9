"""The transformer's prediction for each step of one video: what all steps share is prepared once.

Modulation is 27 % of the block weights and acts on one vector a step, so every block's shift, scale and gate are
computed for all steps at the start; a step runs the patches, the blocks over token chunks, and the final layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import EXACT, Attention
from .models.blocks import DoubleStreamBlock, Modulation, Rope, SingleStreamBlock
from .models.chunked import Sequence, run_double, run_single
from .models.transformer import valid_lengths
from .recovery.watchdog import fault_of
from .streaming.transformer_blocks import BlockModulation, LoadedTransformer
from .text import PromptEmbeds


@dataclass(frozen=True)
class ModulationTable:
    """Every block's modulation for every step: each tensor [steps, hidden]; `vec` feeds the final layer."""

    vec: Tensor
    blocks: tuple[BlockModulation, ...]

    @classmethod
    def compute(
        cls, transformer: LoadedTransformer, timesteps: Tensor, guidance: Tensor | None, pooled: Tensor
    ) -> ModulationTable:
        """timesteps [steps], guidance [1] (times 1000) or None, pooled prompt [1, P]."""
        steps = len(timesteps)
        scale = None if guidance is None else guidance.expand(steps)
        vec = transformer.model.condition(timesteps, scale, pooled.expand(steps, -1))
        return cls(vec=vec, blocks=tuple(transformer.blocks.modulate(vec)))

    def of(self, block: int, step: int) -> BlockModulation:
        """The modulation of a block in one step."""
        modulation = self.blocks[block]
        if isinstance(modulation, Modulation):
            return _row(modulation, step)
        video, text = modulation
        return tuple(_row(each, step) for each in video), tuple(_row(each, step) for each in text)


class Velocity:
    """Predictions for one prompt: call it with the latents [1, C, T, H, W] and the index of the step."""

    def __init__(
        self,
        transformer: LoadedTransformer,
        embeds: PromptEmbeds,
        timesteps: Tensor,
        guidance: Tensor | None,
        *,
        token_chunk: int,
        attention: Attention = EXACT,
    ) -> None:
        """timesteps [steps] on the 0..1000 scale; guidance [1] times 1000, None for a model that takes none."""
        device = transformer.device
        (length,) = valid_lengths(embeds.prompt_embeds, embeds.prompt_mask)
        self.model, self.blocks = transformer.model, transformer.blocks
        self.timesteps = timesteps.to(device)
        self.text = embeds.prompt_embeds[:, :length].to(device, transformer.dtype)
        self.token_chunk, self.attention = token_chunk, attention
        scale = None if guidance is None else guidance.to(device)
        self.table = ModulationTable.compute(transformer, self.timesteps, scale, embeds.pooled_prompt_embeds.to(device))
        self._rope: tuple[tuple[int, int, int], Rope] | None = None

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """The velocity of step `step`: [1, C, T, H, W] in the model's dtype."""
        out = latents
        for _, part in self._parts(latents, step):
            out = part
        return out

    def locate_fault(self, latents: Tensor, step: int) -> str | None:
        """The first part whose output in step `step` has a fault; None where all are well. Reads the device often.

        A step gives the same bits again, so it is looked into only after it went wrong, and costs nothing before.
        """
        for name, part in self._parts(latents, step):
            if fault_of(part) is not None:
                return name
        return None

    def _parts(self, latents: Tensor, step: int) -> Iterator[tuple[str, Tensor]]:
        """The step part by part, each with what it gave: what goes in, the tokens after each block, the velocity."""
        yield "the latents", latents
        yield "the text encoders", self.text
        sequence = self._sequence(latents, step)
        yield "img_in or txt_in", sequence.tokens
        for index, block in enumerate(self.blocks.each()):
            run_block(block, sequence, self.table.of(index, step))
            yield self._name_of(index), sequence.tokens
        yield "final_layer", self._patches_out(sequence, latents, step)

    def _name_of(self, block: int) -> str:
        doubles = self.model.config.mm_double_blocks_depth
        return f"double_blocks.{block}" if block < doubles else f"single_blocks.{block - doubles}"

    def _sequence(self, latents: Tensor, step: int) -> Sequence:
        """The tokens that go into the first block: patches frame by frame, then the refined text."""
        model = self.model
        grid = model.grid(latents)
        text = model.txt_in(self.text, self.timesteps[step : step + 1])
        video = grid[0] * grid[1] * grid[2]
        counts = (latents.shape[0], video, text.shape[1])
        sequence = Sequence.allocate(model.config, *counts, self._rope_of(grid), text, self.token_chunk, self.attention)
        frame, depth = grid[1] * grid[2], model.config.patch_size[0]
        for time in range(grid[0]):
            patches = model.img_in(latents[:, :, time * depth : (time + 1) * depth].to(model.dtype))
            sequence.tokens[:, time * frame : (time + 1) * frame] = patches
        sequence.tokens[:, video:] = text
        return sequence

    def _patches_out(self, sequence: Sequence, latents: Tensor, step: int) -> Tensor:
        model, vec = self.model, self.table.vec[step : step + 1]
        out = [model.final_layer(span.of(sequence.tokens), vec) for span in sequence.spans if span.is_video]
        return model.unpatchify(torch.cat(out, dim=1), model.grid(latents))

    def _rope_of(self, grid: tuple[int, int, int]) -> Rope:
        if self._rope is None or self._rope[0] != grid:
            self._rope = grid, self.model.rope(grid, self.model.device)
        return self._rope[1]


def run_block(block: nn.Module, sequence: Sequence, modulation: BlockModulation) -> None:
    """A block of either kind over `sequence.tokens`, in place."""
    if isinstance(block, DoubleStreamBlock) and isinstance(modulation, tuple):
        run_double(block, sequence, modulation)
    elif isinstance(block, SingleStreamBlock) and isinstance(modulation, Modulation):
        run_single(block, sequence, modulation)
    else:
        raise TypeError(f"{type(block).__name__} does not go with {type(modulation).__name__}")


def _row(modulation: Modulation, step: int) -> Modulation:
    rows = slice(step, step + 1)
    return Modulation(modulation.shift[rows], modulation.scale[rows], modulation.gate[rows])
