"""Named shapes of the real model: what is measured, by device (arithmetic only)."""

from __future__ import annotations

from dataclasses import dataclass

from ..lite.card import OFFICIAL_SIZES
from ..lite.tiling import SPACE_RATIO, TIME_RATIO
from ..quantize.architecture import TransformerConfig, VaeConfig

PATCH = 2
PROMPT_TOKENS = 256
OFFICIAL_FRAMES = (129, 61)


@dataclass(frozen=True)
class Case:
    """A video's size. `name` is how results call it."""

    height: int
    width: int
    frames: int
    text_tokens: int = PROMPT_TOKENS

    @property
    def name(self) -> str:
        return f"{self.height}x{self.width}x{self.frames}"

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(T, H, W) of the latents."""
        return (self.frames - 1) // TIME_RATIO + 1, self.height // SPACE_RATIO, self.width // SPACE_RATIO

    @property
    def video_tokens(self) -> int:
        frames, rows, columns = self.latent_shape
        return frames * (rows // PATCH) * (columns // PATCH)

    @property
    def tokens(self) -> int:
        """Video and text: what attention sees."""
        return self.video_tokens + self.text_tokens


OFFICIAL = tuple(
    Case(height, width, frames)
    for by_aspect in OFFICIAL_SIZES.values()
    for height, width in by_aspect.values()
    for frames in OFFICIAL_FRAMES
)
LARGEST = Case(720, 1280, 129)
MEDIUM = (Case(544, 960, 129), Case(720, 1280, 61), Case(544, 960, 61))
SMALL = (Case(320, 512, 61), Case(320, 512, 33), Case(256, 256, 17))  # for small cards, and near the break-even size
TINY = (Case(64, 64, 5, text_tokens=32), Case(128, 128, 5, text_tokens=32))  # for a CPU

# A CPU gets the official shapes of a block, but few of them.
FEW_BLOCKS = TransformerConfig(mm_double_blocks_depth=1, mm_single_blocks_depth=1)
# Blocks narrow enough for a test.
NARROW_BLOCKS = TransformerConfig(
    hidden_size=256,
    heads_num=2,
    mm_double_blocks_depth=2,
    mm_single_blocks_depth=3,
    text_states_dim=64,
    text_states_dim_2=32,
)
NARROW_VAE = VaeConfig(block_out_channels=(32, 32, 64, 64), layers_per_block=1)


def flops_of_step(config: TransformerConfig, case: Case) -> tuple[float, float]:
    """(attention, linear layers) of one step, in floating-point operations; a multiplication and a sum are two."""
    blocks = config.mm_double_blocks_depth + config.mm_single_blocks_depth
    attention = 4.0 * case.tokens**2 * config.hidden_size * blocks
    inner = config.mlp_hidden_size
    each = config.hidden_size * (4 * config.hidden_size + 2 * inner)  # Q, K, V, projection and both MLP layers
    return attention, 2.0 * case.tokens * each * blocks
