"""Sizes and lengths a video may have, by number and by name (arithmetic only)."""

from __future__ import annotations

from ...errors import ConfigError
from ..card import OFFICIAL_SIZES, ModelCard, Size

SIZE_STEP = 16  # the VAE halves height and width three times, the transformer's patches once more
MAX_SIDE = 8192
MAX_FRAMES = 4097
ASPECTS = tuple(OFFICIAL_SIZES["720p"])
ASPECT_TOLERANCE = 0.04  # 832x1104 is called 4:3, 544x960 is called 16:9


def check_side(name: str, value: int) -> None:
    """Raise ConfigError unless `value` pixels can be a height or width; the error names the nearest that can."""
    if SIZE_STEP <= value <= MAX_SIDE and value % SIZE_STEP == 0:
        return
    below, above = nearest_valid(value, step=SIZE_STEP, offset=0, low=SIZE_STEP, high=MAX_SIDE)
    raise ConfigError(
        f"{name} {value}: must be a multiple of {SIZE_STEP} from {SIZE_STEP} to {MAX_SIDE}",
        hint=f"nearest: {_either(below, above)}",
    )


def check_frames(value: int) -> None:
    """Raise ConfigError unless the model can make a video of `value` frames; the error names the nearest counts."""
    if 1 <= value <= MAX_FRAMES and value % 4 == 1:
        return
    below, above = nearest_valid(value, step=4, offset=1, low=1, high=MAX_FRAMES)
    raise ConfigError(
        f"frames {value}: must be 4k+1 (1, 5, 9, ... {MAX_FRAMES}): one frame, then groups of four",
        hint=f"nearest: {_either(below, above)}",
    )


def nearest_valid(value: int, *, step: int, offset: int, low: int, high: int) -> tuple[int, int]:
    """The largest valid number <= value and the smallest >= value (both the bound where value lies outside)."""
    clamped = min(max(value, low), high)
    below = clamped - (clamped - offset) % step
    return below, below if below == clamped else below + step


def size_by_name(card: ModelCard, resolution: str | None, aspect: str | None) -> Size:
    """(height, width) for `720p`, `16:9` or both. Without a resolution the model's own sizes are searched."""
    if resolution is not None and resolution not in OFFICIAL_SIZES:
        raise ConfigError(f"resolution {resolution!r}: not known", hint=f"one of {', '.join(OFFICIAL_SIZES)}")
    if aspect is not None and aspect not in ASPECTS:
        raise ConfigError(f"aspect {aspect!r}: not known", hint=f"one of {', '.join(ASPECTS)} (width:height)")
    if resolution is not None:
        return OFFICIAL_SIZES[resolution][aspect or "16:9"]
    return (card.height, card.width) if aspect is None else _own_size(card, aspect)


def _own_size(card: ModelCard, aspect: str) -> Size:
    across, down = (int(part) for part in aspect.split(":"))
    wanted, default_area = across / down, card.height * card.width
    fitting = [size for size in card.sizes if abs(size[1] / size[0] / wanted - 1) <= ASPECT_TOLERANCE]
    if not fitting:
        sizes = ", ".join(f"{height}x{width}" for height, width in card.sizes)
        raise ConfigError(
            f"aspect {aspect}: {card.name} was made for no such size",
            hint=f"its sizes (height x width): {sizes}; --video-size HEIGHT WIDTH takes any multiple of {SIZE_STEP}",
        )
    return min(fitting, key=lambda size: abs(size[0] * size[1] - default_area))


def _either(below: int, above: int) -> str:
    return str(below) if below == above else f"{below} or {above}"
