"""Where the weights of each block live between two uses: arithmetic only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import ConfigError

Tier = Literal["resident", "host", "disk"]
TIERS: tuple[Tier, ...] = ("resident", "host", "disk")
TIER_CHOICES = ("auto", *TIERS)


@dataclass(frozen=True)
class TierCounts:
    """How many blocks stay on the device, come from host memory, come from disk."""

    resident: int = 0
    host: int = 0
    disk: int = 0

    def __post_init__(self) -> None:
        for tier in TIERS:
            if getattr(self, tier) < 0:
                raise ConfigError(f"{getattr(self, tier)} blocks in tier {tier}; expected 0 or more")

    @classmethod
    def all_in(cls, tier: Tier, blocks: int) -> TierCounts:
        """Every block in one tier."""
        return cls(**{tier: blocks})

    @classmethod
    def of(cls, tiers: Sequence[Tier]) -> TierCounts:
        """How often each tier occurs."""
        return cls(*(tiers.count(tier) for tier in TIERS))

    @property
    def total(self) -> int:
        return self.resident + self.host + self.disk

    def __str__(self) -> str:
        """The tier where there is one, else the counts: "disk", or "20 resident, 40 host"."""
        used = [tier for tier in TIERS if getattr(self, tier)]
        if len(used) == 1:
            return used[0]
        return ", ".join(f"{getattr(self, tier)} {tier}" for tier in used) or "resident"


def choose_tier(choice: str, root: Path | str, *, streamable: bool) -> Tier:
    """The tier of all blocks of the model in `root`; auto is resident. ConfigError for one that it cannot have.

    `streamable`: each of its blocks is a file of its own, which only a converted model has.
    """
    for tier in TIERS:
        if tier == ("resident" if choice == "auto" else choice):
            if tier == "resident" or streamable:
                return tier
            raise ConfigError(
                f"--tier {tier} needs a model whose blocks are files of their own; {root} is not one",
                hint="convert it with hvlite quantize (--transformer bf16 keeps every bit), or use --tier resident",
            )
    raise ConfigError(f"--tier {choice}: not known", hint=f"one of {', '.join(TIER_CHOICES)}")


def spread_tiers(counts: TierCounts) -> tuple[Tier, ...]:
    """A tier for every block, evenly mixed, so that a streamed block's copy has resident blocks' work to hide behind.

    Each position goes to the tier that is furthest behind its share; no tier is ever more than one block off.
    """
    given = dict.fromkeys(TIERS, 0)
    tiers: list[Tier] = []
    for position in range(1, counts.total + 1):
        tier = max(TIERS, key=lambda tier: getattr(counts, tier) * position - given[tier] * counts.total)
        given[tier] += 1
        tiers.append(tier)
    return tuple(tiers)
