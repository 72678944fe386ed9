"""What a HunyuanVideo checkpoint is made of: the two architectures as values, with the official field names.

Sources: the official `hyvideo/modules/models.py` (transformer) and `hyvideo/vae/autoencoder_kl_causal_3d.py` (VAE).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError

_FIELDS = "13B: hidden_size 3072, heads_num 24, rope_dim_list [16, 56, 56]"


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Architecture of the dual-stream to single-stream transformer. The defaults are the released 13B model's.

    `rope_dim_list` (t, h, w) sums to the head dimension; None where neither the weights nor a config say it.
    """

    hidden_size: int = 3072
    heads_num: int = 24
    mm_double_blocks_depth: int = 20
    mm_single_blocks_depth: int = 40
    rope_dim_list: tuple[int, int, int] | None = (16, 56, 56)
    text_states_dim: int = 4096
    text_states_dim_2: int = 768
    mlp_width_ratio: float = 4.0
    guidance_embed: bool = True
    in_channels: int = 16
    out_channels: int = 16
    patch_size: tuple[int, int, int] = (1, 2, 2)
    rope_theta: float = 256.0
    qk_norm: str | None = "rms"
    refiner_depth: int = 2

    def __post_init__(self) -> None:
        for name in ("hidden_size", "heads_num", "text_states_dim", "text_states_dim_2", "in_channels", "out_channels"):
            _require_positive(name, getattr(self, name))
        for name in ("mm_double_blocks_depth", "mm_single_blocks_depth", "refiner_depth"):
            _require_positive(name, getattr(self, name), zero=True)
        if self.hidden_size % self.heads_num:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of heads_num {self.heads_num}", hint=_FIELDS
            )
        if self.qk_norm not in ("rms", None):
            raise ConfigError(f"qk_norm {self.qk_norm!r} is not supported", hint="expected 'rms' or null")
        if self.rope_dim_list is not None:
            _check_rope(self.rope_dim_list, self.head_dim)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.heads_num

    @property
    def mlp_hidden_size(self) -> int:
        return int(self.hidden_size * self.mlp_width_ratio)


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """Architecture of the causal 3D VAE ("884-16c-hy"): time / 4, space / 8. The defaults are the released model's.

    `sample_size` (pixels) and `sample_tsize` (frames) give the official tile geometry.
    """

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    latent_channels: int = 16
    in_channels: int = 3
    out_channels: int = 3
    mid_block_add_attention: bool = True
    scaling_factor: float = 0.476986
    time_compression_ratio: int = 4
    sample_size: int = 256
    sample_tsize: int = 64

    def __post_init__(self) -> None:
        if len(self.block_out_channels) != 4 or self.time_compression_ratio != 4:
            raise ConfigError(
                f"a VAE with {len(self.block_out_channels)} levels and time compression {self.time_compression_ratio} "
                "is not HunyuanVideo's; expected 4 levels and 4"
            )
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                raise ConfigError(f"norm_num_groups {self.norm_num_groups} does not divide {channels} channels")


def _require_positive(name: str, value: int, *, zero: bool = False) -> None:
    if value < (0 if zero else 1):
        raise ConfigError(f"{name} is {value}", hint=f"expected {'zero or more' if zero else 'one or more'}")


def _check_rope(axes: tuple[int, int, int], head_dim: int) -> None:
    if len(axes) != 3 or any(dim < 0 or dim % 2 for dim in axes) or sum(axes) != head_dim:
        raise ConfigError(
            f"rope_dim_list {list(axes)} does not fit head_dim {head_dim}; expected 3 even numbers that sum to it",
            hint=_FIELDS,
        )
