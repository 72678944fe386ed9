"""How a video is made in the memory there is: where the blocks live, how much is worked on at once."""

from __future__ import annotations

from dataclasses import dataclass

from .models.chunked import DEFAULT_TOKEN_CHUNK
from .streaming.tiers import TierCounts
from .tiling import TileSpec


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """`tiers` None: what the model's folder allows. `tile` None: the official geometry, or all at once."""

    tiers: TierCounts | None = None
    token_chunk: int = DEFAULT_TOKEN_CHUNK
    tile: TileSpec | None = None
    lean_decode: bool = False
    text_by_layer: bool = False
