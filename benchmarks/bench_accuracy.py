"""How exact each form of attention is: against fp64, on data of three kinds. Runs on a CPU, with the references.

    python -m hvlite.benchmarks.bench_accuracy

`hvlite bench accuracy` prints the same rows. On a CUDA card with Triton it is the kernels themselves that are measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..kernels import ops
from ..kernels.attention_variant import VARIANTS, AttentionVariant
from ..kernels.capability import capability_of, runs_kernels
from .tables import aligned

TOKENS, DIM, HEADS = 4096, 128, 1
# At least this cosine, at most this relative L1, for P and V in 16 bits and in fp8.
LIMITS = {False: (0.9999, 0.015), True: (0.999, 0.045)}
Row = dict[str, Any]
Inputs = tuple[Tensor, Tensor, Tensor]


def normal(tokens: int, draw: torch.Generator) -> Inputs:
    """Independent normal values."""
    q, k, v = (torch.randn(1, tokens, HEADS, DIM, generator=draw) for _ in range(3))
    return q, k, v


def biased(tokens: int, draw: torch.Generator) -> Inputs:
    """K with a bias that all tokens share: 8 % of the channels ten times as wide as the rest."""
    q, k, v = normal(tokens, draw)
    wide = torch.where(torch.rand(DIM, generator=draw) < 0.08, 10.0, 0.5)
    return q, k + torch.randn(DIM, generator=draw) * wide, v


def correlated(tokens: int, draw: torch.Generator) -> Inputs:
    """Neighbours resemble each other (so attention is peaked), K is biased, V has a mean and wide channels."""
    q, k, v = normal(tokens, draw)
    base = torch.randn(-(-tokens // 64), DIM, generator=draw).repeat_interleave(64, 0)[None, :tokens, None]
    few = torch.rand(3, DIM, generator=draw) < torch.tensor([[0.08], [0.05], [0.05]])
    shared = torch.randn(3, DIM, generator=draw)
    k = 1.6 * base + 0.6 * k + shared[0] * torch.where(few[0], 12.0, 0.5)
    v = v * torch.where(few[1], 20.0, 1.0) + 2 * shared[1]
    return 0.96 * base + q + shared[2] * torch.where(few[2], 4.0, 0.3), k, v


KINDS: dict[str, Callable[[int, torch.Generator], Inputs]] = {
    "normal": normal,
    "channel bias in K": biased,
    "correlated, V with outliers": correlated,
}


def run(tokens: int = TOKENS, device: str = "cpu", variants: Sequence[str] = tuple(VARIANTS)) -> list[Row]:
    """A row for each variant and kind of data: variant, data, cosine, relative_l1, max_error, passed, what ran.

    Without the variants that a card has no instructions for.
    """
    chosen = torch.device(device)
    return list(_rows(tokens, chosen, [name for name in variants if _has(chosen, VARIANTS[name])]))


def _has(device: torch.device, variant: AttentionVariant) -> bool:
    """The references run anywhere."""
    return not runs_kernels(device) or capability_of(device) >= variant.least_capability


def _rows(tokens: int, device: torch.device, variants: Sequence[str]) -> Iterator[Row]:
    for kind, make in KINDS.items():
        draw = torch.Generator().manual_seed(0)
        q, k, v = (each.to(device, torch.bfloat16) for each in make(tokens, draw))
        exact = ops.joint_attention(q.double(), k.double(), v.double())
        for name in variants:
            variant = VARIANTS[name]
            found = ops.joint_attention(q, k, v, variant)
            yield {
                "variant": name,
                "data": kind,
                "tokens": tokens,
                **errors(found, exact, variant),
                "ran": "kernel" if runs_kernels(device) else "reference",
            }


def errors(found: Tensor, exact: Tensor, variant: AttentionVariant) -> Row:
    """How far from the exact result, and whether that is within the variant's limits."""
    difference = (found.double() - exact).abs()
    cosine = float(torch.nn.functional.cosine_similarity(found.double().flatten(), exact.flatten(), dim=0))
    relative = float(difference.sum() / exact.abs().sum())
    least, most = LIMITS[variant.is_transposed]
    good = cosine >= least and relative <= most and math.isfinite(relative)
    return {"cosine": cosine, "relative_l1": relative, "max_error": float(difference.max()), "passed": good}


def rows_text(rows: Sequence[Row]) -> str:
    """The rows as a table for a terminal."""
    head = ["attention", "data", "cosine", "relative L1", "largest error", ""]
    body = [
        [
            row["variant"],
            row["data"],
            f"{row['cosine']:.6f}",
            f"{row['relative_l1']:.4f}",
            f"{row['max_error']:.4f}",
            "" if row["passed"] else "beyond its limit",
        ]
        for row in rows
    ]
    return "\n".join(aligned([head, *body]))


def main() -> None:
    """Command line."""
    torch.set_num_threads(1)
    print(rows_text(run()))


if __name__ == "__main__":
    main()
