"""The HunyuanVideo transformer: double-stream blocks, then single-stream blocks, over video and text tokens.

Attribute names equal the keys of the official checkpoint (`hyvideo/modules/models.py`, `HYVideoDiffusionTransformer`).
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ...quantize.architecture import TransformerConfig
from .blocks import DoubleStreamBlock, FinalLayer, Rope, SingleStreamBlock
from .embeddings import PatchEmbed, TimestepEmbedder, TokenRefiner, VectorEmbedder, rope_tables


class HunyuanVideoTransformer(nn.Module):
    """Predicts the velocity of the latents. Inference needs no mask: padded text tokens are trimmed first."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_size
        self.img_in = PatchEmbed(config.patch_size, config.in_channels, hidden)
        self.txt_in = TokenRefiner(config.text_states_dim, hidden, config.heads_num, config.refiner_depth)
        self.time_in = TimestepEmbedder(hidden)
        self.vector_in = VectorEmbedder(config.text_states_dim_2, hidden)
        self.guidance_in = TimestepEmbedder(hidden) if config.guidance_embed else None
        self.double_blocks = nn.ModuleList(DoubleStreamBlock(config) for _ in range(config.mm_double_blocks_depth))
        self.single_blocks = nn.ModuleList(SingleStreamBlock(config) for _ in range(config.mm_single_blocks_depth))
        self.final_layer = FinalLayer(hidden, prod(config.patch_size) * config.out_channels)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the residual stream."""
        return self.img_in.proj.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.img_in.proj.weight.device

    @property
    def doubles(self) -> tuple[DoubleStreamBlock, ...]:
        """The double-stream blocks with their type, which nn.ModuleList does not keep."""
        return tuple(block for block in self.double_blocks if isinstance(block, DoubleStreamBlock))

    @property
    def singles(self) -> tuple[SingleStreamBlock, ...]:
        """The single-stream blocks with their type."""
        return tuple(block for block in self.single_blocks if isinstance(block, SingleStreamBlock))

    def forward(
        self,
        *,
        latents: Tensor,
        timestep: Tensor,
        guidance: Tensor | None = None,
        prompt_embeds: Tensor,
        prompt_mask: Tensor | None = None,
        pooled_prompt_embeds: Tensor,
    ) -> Tensor:
        """One prediction.

        latents [B, C, T, H, W]; timestep [B] on the 0..1000 scale; guidance [B], the embedded scale times 1000;
        prompt_embeds [B, L, D] LLM states; prompt_mask [B, L], ones then zeros (None: all valid);
        pooled_prompt_embeds [B, P] -> [B, C, T, H, W] in the model's dtype.
        """
        self._check(latents, timestep, guidance, prompt_embeds, pooled_prompt_embeds)
        lengths = valid_lengths(prompt_embeds, prompt_mask)
        out = latents.new_empty(latents.shape[0], self.config.out_channels, *latents.shape[2:], dtype=self.dtype)
        # Samples of equal text length share a forward; others run apart, since no mask tells them from padding.
        for length in sorted(set(lengths)):
            rows = [i for i, valid in enumerate(lengths) if valid == length]
            vec = self.condition(
                timestep[rows], None if guidance is None else guidance[rows], pooled_prompt_embeds[rows]
            )
            txt = self.txt_in(prompt_embeds[rows, :length].to(self.dtype), timestep[rows])
            out[rows] = self.predict(latents[rows], txt, vec)
        return out

    def condition(self, timestep: Tensor, guidance: Tensor | None, pooled_prompt_embeds: Tensor) -> Tensor:
        """The vector every modulation comes from: [B] timestep, [B] guidance, [B, P] pooled text -> [B, hidden]."""
        vec: Tensor = self.time_in(timestep) + self.vector_in(pooled_prompt_embeds.to(self.dtype))
        if self.guidance_in is not None and guidance is not None:
            vec = vec + self.guidance_in(guidance)
        return vec

    def predict(self, latents: Tensor, txt: Tensor, vec: Tensor) -> Tensor:
        """latents [B, C, T, H, W], refined text tokens [B, L, hidden], vec [B, hidden] -> [B, C, T, H, W]."""
        grid = self.grid(latents)
        rope = self.rope(grid, latents.device)
        img = self.img_in(latents.to(self.dtype))
        for double in self.doubles:
            img, txt = double(img, txt, double.modulation(vec), rope)
        count = img.shape[1]
        tokens = torch.cat([img, txt], dim=1)
        for single in self.singles:
            tokens = single(tokens, *single.modulation(vec), rope)
        return self.unpatchify(self.final_layer(tokens[:, :count], vec), grid)

    def rope(self, grid: tuple[int, int, int], device: torch.device) -> Rope:
        """Rotary tables for a grid of patches; ConfigError where the axes are unknown."""
        if self.config.rope_dim_list is None:
            raise ConfigError(
                "the rotary axes of this transformer are unknown: neither its weights nor a config.json say them",
                hint='give them as "rope_dim_list" in a config.json beside the weights, or with --model-config FILE',
            )
        return Rope(*rope_tables(grid, self.config.rope_dim_list, self.config.rope_theta, device))

    def grid(self, latents: Tensor) -> tuple[int, int, int]:
        """Patches along time, height and width of latents [B, C, T, H, W]."""
        time, height, width = (
            size // patch for size, patch in zip(latents.shape[2:], self.config.patch_size, strict=True)
        )
        return time, height, width

    def unpatchify(self, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """[B, N, C * pt * ph * pw], channels slowest -> [B, C, T, H, W]."""
        x = patches.unflatten(2, (self.config.out_channels, *self.config.patch_size)).unflatten(1, grid)
        x = x.permute(0, 4, 1, 5, 2, 6, 3, 7)
        return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def _check(
        self, latents: Tensor, timestep: Tensor, guidance: Tensor | None, prompt_embeds: Tensor, pooled: Tensor
    ) -> None:
        config, batch = self.config, latents.shape[0]
        if latents.ndim != 5 or latents.shape[1] != config.in_channels:
            raise ConfigError(f"latents have shape {list(latents.shape)}; expected [B, {config.in_channels}, T, H, W]")
        if any(size % patch or not size for size, patch in zip(latents.shape[2:], config.patch_size, strict=True)):
            raise ConfigError(f"latents {list(latents.shape)} do not divide into patches of {list(config.patch_size)}")
        expected = {
            "timestep": (timestep, (batch,)),
            "prompt_embeds": (prompt_embeds, (batch, prompt_embeds.shape[1], config.text_states_dim)),
            "pooled_prompt_embeds": (pooled, (batch, config.text_states_dim_2)),
        }
        if guidance is not None:
            expected["guidance"] = (guidance, (batch,))
        for name, (tensor, shape) in expected.items():
            if tuple(tensor.shape) != shape:
                raise ConfigError(f"{name} has shape {list(tensor.shape)}; expected {list(shape)}")
        if self.guidance_in is not None and guidance is None:
            raise ConfigError("this transformer is guidance-distilled and needs guidance", hint="pass 1000 * the scale")


def valid_lengths(prompt_embeds: Tensor, prompt_mask: Tensor | None) -> list[int]:
    """Number of valid text tokens of each sample. The mask must be ones, then zeros, with at least one one."""
    if prompt_mask is None:
        return [prompt_embeds.shape[1]] * prompt_embeds.shape[0]
    if prompt_mask.shape != prompt_embeds.shape[:2]:
        raise ConfigError(f"prompt_mask has shape {list(prompt_mask.shape)}; expected {list(prompt_embeds.shape[:2])}")
    mask = prompt_mask.bool()
    lengths = mask.sum(dim=1)
    prefix = torch.arange(mask.shape[1], device=mask.device)[None] < lengths[:, None]
    if not torch.equal(mask, prefix) or int(lengths.min()) < 1:
        raise ConfigError(
            "prompt_mask is not a right-padded prefix; expected one or more ones, then zeros, in each row"
        )
    return [int(length) for length in lengths]
