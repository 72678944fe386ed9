"""Where a matrix product puts its result: a tensor that may be a view of tokens, and what is done on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .launch import Launch
from .rows import Rows

Epilogue = Literal["none", "gelu", "residual"]


@dataclass(frozen=True)
class MmOutput:
    """`rows` of the tensor [..., N]. epilogue "residual": rows += gate * product, with a gate [B, N]."""

    rows: Rows
    epilogue: Epilogue = "none"
    gate: Tensor | None = None

    @classmethod
    def of(cls, out: Tensor, gate: Tensor | None = None, *, gelu: bool = False) -> MmOutput:
        """Into `out`; with a gate added to it, else with or without a GELU."""
        if gate is not None:
            return cls(Rows.of(out), "residual", gate)
        return cls(Rows.of(out), "gelu" if gelu else "none")

    @property
    def strides(self) -> tuple[int, int, int, int]:
        """tokens, out_batch, out_token, gate_batch as the kernels take them."""
        gate_batch = 0 if self.gate is None else self.gate.stride(0)
        return self.rows.tokens, self.rows.batch_stride, self.rows.token_stride, gate_batch

    def grid(self, columns: int, launch: Launch) -> tuple[int]:
        """One program for each tile."""
        return (_tiles(self.rows.total, launch.tiles["BM"]) * _tiles(columns, launch.tiles["BN"]),)


def _tiles(length: int, size: int) -> int:
    return -(-length // size)
