"""Device memory of a denoise step: what lies there all the time, and what a chunk of tokens adds (arithmetic only).

Follows `models/chunked.py` and `velocity.py`: every moment names what is alive in it, in the order of the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from ...quantize.architecture import TransformerConfig
from . import operators as op
from .attention import SIXTEEN_BIT, kv_bytes
from .types import Moment

LATENT_RATIO = (4, 8, 8)  # frames, rows and columns of the video behind one of the latents
SMALL_BYTES = 64 << 10  # scalars, timesteps, vectors of a token
TOKEN_CHUNKS = (8192, 4096, 2048, 1024)  # the first is the default; more saves nothing, less widens weights more often
# A 4096 x 3072 product is 768 tiles of 128 x 128, several for each multiprocessor of any card; half of that is few.
FULL_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Step:
    """The size of a denoise step. `w`: bytes of an activation element; `scheme`: how the blocks' weights are stored.

    `guided`: classifier-free guidance runs a second prompt, with a modulation table of its own. `attention`: one of
    `KV_WIDTHS`. `fused`: weights are multiplied as 8-bit codes, never widened.
    """

    config: TransformerConfig
    height: int
    width: int
    frames: int
    steps: int
    text: int = 256
    chunk: int = TOKEN_CHUNKS[0]
    w: int = 2
    scheme: str = "bf16"
    guided: bool = False
    attention: str = SIXTEEN_BIT
    fused: bool = False

    @property
    def latent_count(self) -> int:
        """Elements of the latents."""
        time, row, column = LATENT_RATIO
        return self.config.in_channels * ((self.frames - 1) // time + 1) * (self.height // row) * (self.width // column)

    @property
    def video(self) -> int:
        """Tokens of the video: one a patch."""
        depth, rows, columns = self.config.patch_size
        return self.latent_count // self.config.in_channels // (depth * rows * columns)

    @property
    def tokens(self) -> int:
        return self.video + self.text

    @property
    def span(self) -> int:
        """Tokens of the largest chunk."""
        return min(self.chunk, max(self.video, self.text))

    @property
    def prompts(self) -> int:
        return 2 if self.guided else 1


def table_bytes(step: Step) -> int:
    """Shift, scale and gate of every block for every step: 6 for each stream of a double block, 3 for a single one."""
    config = step.config
    vectors = 12 * config.mm_double_blocks_depth + 3 * config.mm_single_blocks_depth + 1
    return step.prompts * vectors * config.hidden_size * step.steps * step.w


def modulation_moment(step: Step) -> Moment:
    """The table is complete but for the layer that is computed last; the largest layer's weights are there."""
    hidden = step.config.hidden_size
    weights = (hidden + 1) * 6 * hidden * step.w
    inputs = 6 * step.steps * hidden * max(step.w, op.FP32)
    return Moment("modulation", table_bytes(step) + weights + inputs)


@lru_cache(maxsize=4096)
def peak_moment(step: Step) -> Moment:
    """The moment of a step at which most is alive, with all that lies there anyway."""
    kept, sequence = _kept_bytes(step), _sequence_bytes(step)
    plain = (*_double_block(step), *_single_block(step)) if not step.fused else (_fused_block(step),)
    blocks = (*plain, _patches(step))
    most = max(blocks, key=lambda moment: moment.nbytes)
    return max(
        Moment(most.name, kept + sequence + most.nbytes),
        Moment("text refiner", kept + _refiner_bytes(step)),
        key=lambda moment: moment.nbytes,
    )


def _kept_bytes(step: Step) -> int:
    """What stays from step to step: the table, rotary tables, latents, the velocity of the step before, the text."""
    config = step.config
    rope = 2 * step.video * (config.head_dim // 2) * op.FP32
    latents = 2 * step.latent_count * op.FP32
    other_velocity = step.latent_count * step.w if step.guided else 0
    text = step.prompts * step.text * config.text_states_dim * step.w
    return table_bytes(step) + rope + latents + other_velocity + text + SMALL_BYTES


def _sequence_bytes(step: Step) -> int:
    """All tokens, and K and V of all tokens."""
    hidden, heads = step.config.hidden_size, step.config.heads_num
    return step.tokens * hidden * step.w + kv_bytes(step.attention, step.tokens, hidden, heads, step.w, step.chunk)


def _patches(step: Step) -> Moment:
    """Frame by frame into the tokens: the text, the patches of two frames, the latents of one."""
    config = step.config
    frames = (step.frames - 1) // LATENT_RATIO[0] + 1
    patches = 2 * step.video * config.hidden_size * step.w * config.patch_size[0] // frames
    latents = step.latent_count * step.w * config.patch_size[0] // frames
    return Moment("patches", step.text * config.hidden_size * step.w + patches + latents)


def _refiner_bytes(step: Step) -> int:
    """In its last MLP: what came in, the block's input, Q, K and V, attention, its sum, its norm; the MLP twice."""
    return 16 * step.text * step.config.hidden_size * step.w


def _double_block(step: Step) -> Iterator[Moment]:
    n, w, hidden, inner, heads = _sizes(step)
    part = w * n * hidden  # a chunk of tokens, or their Q, K or V
    norm, rope, attention = (
        op.modulated_norm(n, hidden, w),
        op.apply_rope(n, hidden, w),
        op.joint_attention(n, hidden, heads, w),
    )
    yield Moment("double block: norm", norm.peak)
    yield Moment("double block: K and V", part + op.linear(n, 2 * hidden, hidden, w, step.scheme).peak)
    yield Moment("double block: norm of K", part + 2 * part + op.rms_norm(n, hidden, heads, w).peak)
    yield Moment("double block: rotation of K", 3 * part + rope.peak)
    yield Moment("double block: Q", part + op.linear(n, hidden, hidden, w, step.scheme).peak)
    yield Moment("double block: norm of Q", 2 * part + op.rms_norm(n, hidden, heads, w).peak)
    yield Moment("double block: rotation of Q", part + rope.peak)
    yield Moment("double block: attention", 2 * part + attention.peak)
    yield Moment("double block: projection", 2 * part + op.linear(n, hidden, hidden, w, step.scheme).peak)
    yield Moment("double block: MLP up", part + op.linear(n, inner, hidden, w, step.scheme).peak)
    yield Moment("double block: MLP down", w * n * inner + op.linear(n, hidden, inner, w, step.scheme).peak)


def _single_block(step: Step) -> Iterator[Moment]:
    n, w, hidden, inner, heads = _sizes(step)
    part, both = w * n * hidden, w * n * (hidden + inner)
    attention = op.joint_attention(n, hidden, heads, w)
    yield Moment("single block: K and V", part + op.linear(n, 2 * hidden, hidden, w, step.scheme).peak)
    yield Moment("single block: norm of Q", 2 * part + op.rms_norm(n, hidden, heads, w).peak)
    yield Moment("single block: rotation of Q", 2 * part + op.apply_rope(n, hidden, w).peak)
    yield Moment("single block: attention", 3 * part + attention.peak)
    yield Moment("single block: input of linear2", 3 * part + both)
    yield Moment("single block: MLP", part + both + op.linear(n, inner, hidden, w, step.scheme).peak)
    yield Moment("single block: linear2", both + op.linear(n, hidden, hidden + inner, w, step.scheme).peak)


def _fused_block(step: Step) -> Moment:
    """Where most is alive when norms, GELU and products work on codes: linear2's input, its codes, a scale a token."""
    n, w, hidden, inner, _ = _sizes(step)
    return Moment("single block: codes of linear2's input", (w + 1) * n * (hidden + inner) + op.FP32 * n)


def _sizes(step: Step) -> tuple[int, int, int, int, int]:
    config = step.config
    return step.span, step.w, config.hidden_size, config.mlp_hidden_size, config.heads_num
