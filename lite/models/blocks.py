"""The two kinds of transformer block, and the final layer.

Source: the official `hyvideo/modules/models.py` and `modulate_layers.py`. A block takes its modulation as values, so
that the modulation of every step can be computed once and its weights let go.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import ops
from ...quantize.architecture import TransformerConfig


@dataclass(frozen=True)
class Modulation:
    """Shift, scale and gate of one residual branch, each [B, hidden]."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


@dataclass(frozen=True)
class Rope:
    """Rotary tables of the video tokens: cos and sin, each [N, D/2] fp32. Text tokens have no position."""

    cos: Tensor
    sin: Tensor

    def rotate(self, x: Tensor) -> Tensor:
        """x: [B, S, H, D] with S >= N: the first N tokens are video and rotate, the rest stay."""
        count = self.cos.shape[0]
        if x.shape[1] == count:
            return ops.apply_rope(x, self.cos, self.sin)
        return torch.cat([ops.apply_rope(x[:, :count], self.cos, self.sin), x[:, count:]], dim=1)


class Modulate(nn.Module):
    """vec [B, hidden] -> `branches` modulations."""

    def __init__(self, hidden_size: int, branches: int) -> None:
        super().__init__()
        self.branches = branches
        self.linear = nn.Linear(hidden_size, 3 * branches * hidden_size)

    def forward(self, vec: Tensor) -> tuple[Modulation, ...]:
        parts = self.linear(F.silu(vec)).chunk(3 * self.branches, dim=-1)
        return tuple(Modulation(*parts[3 * i : 3 * i + 3]) for i in range(self.branches))


class RMSNorm(nn.Module):
    """Normalises each head of Q or K. x [..., D] -> the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight.to(x.dtype))


class Mlp(nn.Module):
    """x [B, S, hidden] -> the same, GELU (tanh) between."""

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, inner_size)
        self.fc2 = nn.Linear(inner_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(ops.gelu_tanh(self.fc1(x)))


class DoubleStreamBlock(nn.Module):
    """Video and text tokens have weights of their own and attend together, video first."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        hidden, inner, head_dim = config.hidden_size, config.mlp_hidden_size, config.head_dim
        self.heads = config.heads_num
        self.hidden_size = hidden
        self.img_mod = Modulate(hidden, branches=2)
        self.img_attn_qkv = nn.Linear(hidden, 3 * hidden)
        self.img_attn_q_norm = _qk_norm(config, head_dim)
        self.img_attn_k_norm = _qk_norm(config, head_dim)
        self.img_attn_proj = nn.Linear(hidden, hidden)
        self.img_mlp = Mlp(hidden, inner)
        self.txt_mod = Modulate(hidden, branches=2)
        self.txt_attn_qkv = nn.Linear(hidden, 3 * hidden)
        self.txt_attn_q_norm = _qk_norm(config, head_dim)
        self.txt_attn_k_norm = _qk_norm(config, head_dim)
        self.txt_attn_proj = nn.Linear(hidden, hidden)
        self.txt_mlp = Mlp(hidden, inner)

    def modulation(self, vec: Tensor) -> tuple[tuple[Modulation, ...], tuple[Modulation, ...]]:
        """vec [B, hidden] -> (attention, mlp) modulations of the video and of the text stream."""
        return self.img_mod(vec), self.txt_mod(vec)

    def forward(
        self,
        img: Tensor,
        txt: Tensor,
        modulation: tuple[tuple[Modulation, ...], tuple[Modulation, ...]],
        rope: Rope,
    ) -> tuple[Tensor, Tensor]:
        """img [B, N, hidden], txt [B, L, hidden] -> the same."""
        (img_attention, img_mlp), (txt_attention, txt_mlp) = modulation
        img_q, img_k, img_v = self._qkv(img, img_attention, "img")
        txt_q, txt_k, txt_v = self._qkv(txt, txt_attention, "txt")
        attended = ops.joint_attention(
            torch.cat([rope.rotate(img_q), txt_q], dim=1),
            torch.cat([rope.rotate(img_k), txt_k], dim=1),
            torch.cat([img_v, txt_v], dim=1),
        ).flatten(2)
        count = img.shape[1]
        img = ops.gated_residual(img, self.img_attn_proj(attended[:, :count]), img_attention.gate)
        txt = ops.gated_residual(txt, self.txt_attn_proj(attended[:, count:]), txt_attention.gate)
        img_branch = self.img_mlp(ops.modulated_norm(img, img_mlp.shift, img_mlp.scale))
        txt_branch = self.txt_mlp(ops.modulated_norm(txt, txt_mlp.shift, txt_mlp.scale))
        return (
            ops.gated_residual(img, img_branch, img_mlp.gate),
            ops.gated_residual(txt, txt_branch, txt_mlp.gate),
        )

    def _qkv(self, x: Tensor, modulation: Modulation, stream: str) -> tuple[Tensor, Tensor, Tensor]:
        qkv = getattr(self, f"{stream}_attn_qkv")(ops.modulated_norm(x, modulation.shift, modulation.scale))
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(2)
        return getattr(self, f"{stream}_attn_q_norm")(q), getattr(self, f"{stream}_attn_k_norm")(k), v


class SingleStreamBlock(nn.Module):
    """Video and text tokens in one stream; attention and MLP side by side (ViT-22B)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.mlp_hidden_size
        self.heads = config.heads_num
        self.hidden_size = hidden
        self.split = (3 * hidden, inner)
        self.linear1 = nn.Linear(hidden, 3 * hidden + inner)
        self.linear2 = nn.Linear(hidden + inner, hidden)
        self.q_norm = _qk_norm(config, config.head_dim)
        self.k_norm = _qk_norm(config, config.head_dim)
        self.modulation = Modulate(hidden, branches=1)

    def forward(self, x: Tensor, modulation: Modulation, rope: Rope) -> Tensor:
        """x [B, N + L, hidden], video tokens first -> the same."""
        qkv, mlp = self.linear1(ops.modulated_norm(x, modulation.shift, modulation.scale)).split(self.split, dim=-1)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(2)
        attended = ops.joint_attention(rope.rotate(self.q_norm(q)), rope.rotate(self.k_norm(k)), v).flatten(2)
        branch = self.linear2(torch.cat([attended, ops.gelu_tanh(mlp)], dim=-1))
        return ops.gated_residual(x, branch, modulation.gate)


class FinalLayer(nn.Module):
    """tokens [B, N, hidden], vec [B, hidden] -> patches [B, N, pt * ph * pw * out_channels]."""

    def __init__(self, hidden_size: int, patch_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, patch_dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(vec).chunk(2, dim=-1)
        return self.linear(ops.modulated_norm(x, shift, scale))


def _qk_norm(config: TransformerConfig, head_dim: int) -> nn.Module:
    return RMSNorm(head_dim) if config.qk_norm == "rms" else nn.Identity()
