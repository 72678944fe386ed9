"""How far a stored tensor is from the original: summed in pieces, so that no second copy of it is needed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class ErrorSums:
    """Sums over the pieces of a tensor seen so far, in double precision."""

    original: float = 0.0
    stored: float = 0.0
    product: float = 0.0
    error: float = 0.0
    largest: float = 0.0

    def add(self, original: Tensor, stored: Tensor) -> None:
        """Count a piece: its original and its stored values, both fp32 of one shape."""
        a, b = original.reshape(-1), stored.reshape(-1)
        difference = a - b
        self.original += float(torch.dot(a, a))
        self.stored += float(torch.dot(b, b))
        self.product += float(torch.dot(a, b))
        self.error += float(torch.dot(difference, difference))
        self.largest = max(self.largest, float(difference.abs_().amax()))

    def quality(self) -> Quality:
        norms = math.sqrt(self.original * self.stored)
        return Quality(
            relative_error=math.sqrt(self.error / self.original) if self.original else 0.0,
            sqnr_db=10 * math.log10(self.original / self.error) if self.error and self.original else math.inf,
            cosine=min(1.0, self.product / norms) if norms else 1.0,
            largest_error=self.largest,
        )


@dataclass(frozen=True)
class Quality:
    """Stored values against the original: |error| / |original| (2-norms), signal to noise, cosine, largest error."""

    relative_error: float
    sqnr_db: float
    cosine: float
    largest_error: float

    def to_json(self) -> dict[str, Any]:
        """Six digits: what is below depends on the order of sums. An exact copy has no sqnr_db (null)."""
        return {
            "relative_error": _rounded(self.relative_error),
            "sqnr_db": None if math.isinf(self.sqnr_db) else round(self.sqnr_db, 3),
            "cosine": round(self.cosine, 8),
            "largest_error": _rounded(self.largest_error),
        }


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
