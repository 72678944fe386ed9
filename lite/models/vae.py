"""The causal 3D VAE of HunyuanVideo ("884-16c-hy"), written for inference.

Module names equal the keys of the official checkpoint (`hyvideo/vae/autoencoder_kl_causal_3d.py`, `vae.py`,
`unet_causal_3d_blocks.py`), so that weights bind by name. Time shrinks by 4 and space by 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ConfigError
from ...kernels import ops
from ...quantize.architecture import VaeConfig
from ..tiling import SPACE_RATIO, TIME_RATIO, TileSpec
from . import vae_tiles

# (time, height, width) strides of the three resampling levels: the first one leaves time alone.
STRIDES = ((1, 2, 2), (2, 2, 2), (2, 2, 2))
NORM_EPS = 1e-6


class AutoencoderKLCausal3D(nn.Module):
    """Video <-> latents. Latents here are raw: already divided by `config.scaling_factor`."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv3d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv3d(config.latent_channels, config.latent_channels, 1)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in."""
        return self.post_quant_conv.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.post_quant_conv.weight.device

    @property
    def official_tile(self) -> TileSpec:
        """The tile geometry that the official code uses for this checkpoint."""
        size = self.config.sample_size // SPACE_RATIO
        return TileSpec(height=size, width=size, frames=self.config.sample_tsize // TIME_RATIO)

    def encode(self, video: Tensor, tile: TileSpec | None = None) -> Tensor:
        """video [B, 3, F, H, W] in [-1, 1], F = 4k+1, H and W multiples of 8 -> moments [B, 32, T, H/8, W/8].

        The moments are mean and log variance, 16 channels each. With `tile`, tiles are encoded and blended.
        """
        _check_video(video, self.config.in_channels)
        if tile is None:
            return self.encode_tile(video)
        return vae_tiles.encode_tiled(self.encode_tile, video, tile)

    def decode(self, latents: Tensor, tile: TileSpec | None = None) -> Tensor:
        """latents [B, 16, T, H, W] -> video [B, 3, 4(T-1)+1, 8H, 8W], nominally in [-1, 1], not clamped."""
        if tile is None:
            _check_latents(latents, self.config.latent_channels)
            return self.decode_tile(latents)
        return torch.cat(list(self.decode_chunks(latents, tile)), dim=2)

    def decode_chunks(self, latents: Tensor, tile: TileSpec) -> Iterator[Tensor]:
        """Like `decode`, as consecutive chunks of frames [B, 3, f, 8H, 8W]: one temporal tile in memory at a time."""
        _check_latents(latents, self.config.latent_channels)
        return vae_tiles.decode_chunks(self.decode_tile, latents, tile)

    def encode_tile(self, video: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(video))

    def decode_tile(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))


class Encoder(nn.Module):
    """video [B, 3, F, H, W] -> moments [B, 32, T, H/8, W/8]."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        channels = config.block_out_channels
        groups = config.norm_num_groups
        self.conv_in = CausalConv3d(config.in_channels, channels[0])
        inputs = (channels[0], *channels[:-1])
        self.down_blocks = nn.ModuleList(
            DownBlock(c_in, c_out, config.layers_per_block, groups, stride)
            for c_in, c_out, stride in zip(inputs, channels, (*STRIDES, None), strict=True)
        )
        self.mid_block = MidBlock(channels[-1], groups, attention=config.mid_block_add_attention)
        self.conv_norm_out = nn.GroupNorm(groups, channels[-1], eps=NORM_EPS)
        self.conv_out = CausalConv3d(channels[-1], 2 * config.latent_channels)

    def forward(self, video: Tensor) -> Tensor:
        x = self.conv_in(video)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        return self.conv_out(norm_silu(self.conv_norm_out, x))


class Decoder(nn.Module):
    """latents [B, 16, T, H, W] -> video [B, 3, 4(T-1)+1, 8H, 8W]."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        channels = config.block_out_channels[::-1]
        groups = config.norm_num_groups
        self.conv_in = CausalConv3d(config.latent_channels, channels[0])
        self.mid_block = MidBlock(channels[0], groups, attention=config.mid_block_add_attention)
        inputs = (channels[0], *channels[:-1])
        self.up_blocks = nn.ModuleList(
            UpBlock(c_in, c_out, config.layers_per_block + 1, groups, factor)
            for c_in, c_out, factor in zip(inputs, channels, (*STRIDES, None), strict=True)
        )
        self.conv_norm_out = nn.GroupNorm(groups, channels[-1], eps=NORM_EPS)
        self.conv_out = CausalConv3d(channels[-1], config.out_channels)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.conv_in(latents)
        x = self.mid_block(x)
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(norm_silu(self.conv_norm_out, x))


class DownBlock(nn.Module):
    """Resnets, then a strided convolution (not in the last block)."""

    def __init__(self, c_in: int, c_out: int, layers: int, groups: int, stride: tuple[int, int, int] | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(c_in if i == 0 else c_out, c_out, groups) for i in range(layers))
        self.downsamplers = nn.ModuleList([Downsample(c_out, stride)] if stride else [])

    def forward(self, x: Tensor) -> Tensor:
        for module in (*self.resnets, *self.downsamplers):
            x = module(x)
        return x


class UpBlock(nn.Module):
    """Resnets, then an upsampler (not in the last block)."""

    def __init__(self, c_in: int, c_out: int, layers: int, groups: int, factor: tuple[int, int, int] | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(c_in if i == 0 else c_out, c_out, groups) for i in range(layers))
        self.upsamplers = nn.ModuleList([Upsample(c_out, factor)] if factor else [])

    def forward(self, x: Tensor) -> Tensor:
        for module in (*self.resnets, *self.upsamplers):
            x = module(x)
        return x


class MidBlock(nn.Module):
    """Resnet, attention, resnet at the latent resolution."""

    def __init__(self, channels: int, groups: int, *, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, groups) for _ in range(2))
        self.attentions = nn.ModuleList([FrameCausalAttention(channels, groups)] if attention else [])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class ResnetBlock(nn.Module):
    """Norm, SiLU, convolution, twice, around a shortcut. x [B, c_in, T, H, W] -> [B, c_out, T, H, W]."""

    def __init__(self, c_in: int, c_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=NORM_EPS)
        self.conv1 = CausalConv3d(c_in, c_out)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=NORM_EPS)
        self.conv2 = CausalConv3d(c_out, c_out)
        self.conv_shortcut = CausalConv3d(c_in, c_out, kernel=1) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(norm_silu(self.norm1, x))
        h = self.conv2(norm_silu(self.norm2, h))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h


class FrameCausalAttention(nn.Module):
    """One head over all positions; a position sees its own frame and the earlier ones.

    The official code builds the (THW)^2 mask; a query frame with the keys of its prefix needs none.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, T, H, W] -> the same."""
        frames, height, width = x.shape[2:]
        tokens = self.group_norm(x.flatten(2)).transpose(1, 2)
        q, k, v = (project(tokens).unsqueeze(1) for project in (self.to_q, self.to_k, self.to_v))
        frame_ends = [t * height * width for t in range(frames + 1)]
        out = [
            F.scaled_dot_product_attention(q[:, :, start:end], k[:, :, :end], v[:, :, :end])
            for start, end in pairwise(frame_ends)
        ]
        mixed = self.to_out[0](torch.cat(out, dim=2).squeeze(1))
        return x + mixed.transpose(1, 2).unflatten(2, (frames, height, width))


class Downsample(nn.Module):
    """A strided causal convolution."""

    def __init__(self, channels: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest, then a causal convolution. The first frame has no predecessor and is doubled in space only."""

    def __init__(self, channels: int, factor: tuple[int, int, int]) -> None:
        super().__init__()
        self.factor = factor
        self.conv = CausalConv3d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.enlarge(x, starts_video=True))

    def enlarge(self, x: Tensor, *, starts_video: bool) -> Tensor:
        """The nearest-neighbour part, for the frames that start the video or for some that follow."""
        time, height, width = self.factor
        x = F.interpolate(x, scale_factor=(1, height, width), mode="nearest")
        if time == 1:
            return x
        if not starts_video:
            return x.repeat_interleave(time, dim=2)
        return torch.cat([x[:, :, :1], x[:, :, 1:].repeat_interleave(time, dim=2)], dim=2)


class CausalConv3d(nn.Module):
    """A 3D convolution that looks back in time: replicate padding, `kernel - 1` frames in front and none behind."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: tuple[int, int, int] = (1, 1, 1)) -> None:
        super().__init__()
        side = kernel // 2
        self.padding = (side, side, side, side, kernel - 1, 0)
        self.conv = nn.Conv3d(c_in, c_out, kernel, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        if any(self.padding):
            x = F.pad(x, self.padding, mode="replicate")
        return self.conv(x)


def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """SiLU(norm(x)) in one operation."""
    return ops.group_norm_silu(x, norm.weight, norm.bias, norm.num_groups, norm.eps)


def _check_video(video: Tensor, channels: int) -> None:
    if video.ndim != 5 or video.shape[1] != channels or 0 in video.shape:
        raise ConfigError(f"video has shape {list(video.shape)}; expected [B, {channels}, F, H, W]")
    frames, height, width = video.shape[2:]
    if (frames - 1) % TIME_RATIO or height % SPACE_RATIO or width % SPACE_RATIO:
        raise ConfigError(
            f"video is {frames} frames of {height}x{width}; expected 4k+1 frames and sides that 8 divides"
        )


def _check_latents(latents: Tensor, channels: int) -> None:
    if latents.ndim != 5 or latents.shape[1] != channels or 0 in latents.shape:
        raise ConfigError(f"latents have shape {list(latents.shape)}; expected [B, {channels}, T, H, W]")
