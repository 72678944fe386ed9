"""What goes into the transformer besides the blocks: patches, time, guidance, pooled text, refined text, positions.

Source: the official `hyvideo/modules/embed_layers.py`, `token_refiner.py` and `posemb_layers.py`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import ops

FREQUENCY_DIM = 256
NORM_EPS = 1e-6


class PatchEmbed(nn.Module):
    """latents [B, C, T, H, W] -> tokens [B, N, hidden], rows ordered by time, height, width."""

    def __init__(self, patch_size: tuple[int, int, int], in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)

    def forward(self, latents: Tensor) -> Tensor:
        return self.proj(latents).flatten(2).transpose(1, 2)


class TimestepEmbedder(nn.Module):
    """A scalar [B] on the 0..1000 scale -> [B, hidden]. The sinusoids are fp32: bf16 cannot tell 999 from 1000."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCY_DIM, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, timestep: Tensor) -> Tensor:
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        return self.mlp(sinusoidal_embedding(timestep).to(first.weight.dtype))


def sinusoidal_embedding(timestep: Tensor) -> Tensor:
    """timestep [B] -> [B, 256] fp32: cosines, then sines, of timestep * 10000^(-i / 128)."""
    angles = timestep.float()[:, None] * timestep_frequencies().to(timestep.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def timestep_frequencies() -> Tensor:
    """10000^(-i / 128), i = 0..127: fp32 on the CPU, the same bits on every machine.

    fp32 exp differs by one ulp between CPUs (MKL on Intel and AMD) at 5 of the 128. At guidance 6000 one ulp moves the
    embedding by 2e-4 and the model's output by 8e-5. Rounding once from fp64 gives the values behind the official
    reference outputs at all but two, which are one ulp above.
    """
    exponent = -math.log(10000.0) * torch.arange(FREQUENCY_DIM // 2, dtype=torch.float32) / (FREQUENCY_DIM // 2)
    frequencies = exponent.double().exp().float()
    one_up = torch.nextafter(frequencies, torch.ones(()))
    return torch.where(torch.isin(torch.arange(FREQUENCY_DIM // 2), torch.tensor([12, 110])), one_up, frequencies)


class VectorEmbedder(nn.Module):
    """Pooled text [B, P] -> [B, hidden]."""

    def __init__(self, in_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.in_layer = nn.Linear(in_dim, hidden_size)
        self.out_layer = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(F.silu(self.in_layer(x)))


class TextProjection(nn.Module):
    """Mean text state [B, L] -> [B, hidden]."""

    def __init__(self, in_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class TokenRefiner(nn.Module):
    """LLM states of one prompt's valid tokens [B, L, D] -> text tokens [B, L, hidden].

    Padding is trimmed before, so the pairwise mask of the official code is not needed.
    """

    def __init__(self, in_dim: int, hidden_size: int, heads: int, depth: int) -> None:
        super().__init__()
        self.input_embedder = nn.Linear(in_dim, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.c_embedder = TextProjection(in_dim, hidden_size)
        self.individual_token_refiner = RefinerStack(hidden_size, heads, depth)

    def forward(self, prompt_embeds: Tensor, timestep: Tensor) -> Tensor:
        mean = prompt_embeds.float().mean(dim=1).to(prompt_embeds.dtype)
        condition = self.t_embedder(timestep) + self.c_embedder(mean)
        return self.individual_token_refiner(self.input_embedder(prompt_embeds), condition)


class RefinerStack(nn.Module):
    """The refiner's blocks. x [B, L, hidden], condition [B, hidden] -> x."""

    def __init__(self, hidden_size: int, heads: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(RefinerBlock(hidden_size, heads) for _ in range(depth))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, condition)
        return x


class RefinerBlock(nn.Module):
    """Self-attention and a SiLU MLP, each gated by the condition; the norms are affine and Q, K have none."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.self_attn_qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.self_attn_proj = nn.Linear(hidden_size, hidden_size)
        self.norm2 = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.mlp = RefinerMlp(hidden_size, 4 * hidden_size)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gate_attention, gate_mlp = self.adaLN_modulation(condition).chunk(2, dim=-1)
        q, k, v = self.self_attn_qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        attended = self.self_attn_proj(ops.joint_attention(q, k, v).flatten(2))
        x = ops.gated_residual(x, attended, gate_attention)
        return ops.gated_residual(x, self.mlp(self.norm2(x)), gate_mlp)


class RefinerMlp(nn.Module):
    """x [B, L, hidden] -> the same, SiLU between."""

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, inner_size)
        self.fc2 = nn.Linear(inner_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x)))


def rope_tables(
    grid: tuple[int, int, int], axes: tuple[int, int, int], theta: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the 3D rotary embedding: each [T*H*W, D/2] fp32, D = sum(axes).

    Positions are integers from 0 on each axis; an axis of dim d has frequencies theta^(-2i/d) (official
    `get_nd_rotary_pos_embed`). The official table repeats each value for both members of a pair; this one does not.
    """
    angles = []
    for axis, (length, dim) in enumerate(zip(grid, axes, strict=True)):
        frequencies = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)
        along = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequencies
        shape = [1, 1, 1, dim // 2]
        shape[axis] = length
        angles.append(along.view(shape).expand(*grid, dim // 2))
    table = torch.cat(angles, dim=-1).flatten(0, 2)
    return table.cos(), table.sin()
