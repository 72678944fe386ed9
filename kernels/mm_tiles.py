"""Parts of the matrix products: the order of their tiles and what happens to a tile before it is stored."""

from __future__ import annotations

import triton
import triton.language as tl

from .codes import gelu_tanh


@triton.jit
def tile_of(program, rows, columns, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr):
    """Tile (row, column) of a program: columns change slowest within GROUP rows of tiles, so that both stay in L2."""
    down, across = tl.cdiv(rows, BM), tl.cdiv(columns, BN)
    first = program // (GROUP * across) * GROUP
    height = tl.minimum(down - first, GROUP)
    within = program % (GROUP * across)
    return first + within % height, within // height


@triton.jit
def store_tile(
    total, out, x_scale, weight_scale, bias, gate, tile_row, tile_column, rows, columns, tokens, out_batch, out_token,
    gate_batch, X_SCALED: tl.constexpr, HAS_BIAS: tl.constexpr, EPILOGUE: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Scales, bias, then nothing, a GELU, or `out += gate * value`, all in fp32; rounded once.

    Halves of a wide tile go one after the other: at once, their addresses would spill registers.
    """
    if PIECES == 1:
        row, column = tile_row * BM + tl.arange(0, BM), tile_column + tl.arange(0, BN)
        _store_piece(
            total, out, x_scale, weight_scale, bias, gate, row, column, rows, columns, tokens, out_batch, out_token,
            gate_batch, X_SCALED, HAS_BIAS, EPILOGUE,
        )  # fmt: skip
    else:
        left, right = tl.split(tl.permute(tl.reshape(total, (BM, 2, BN // 2)), (0, 2, 1)))
        store_tile(
            left, out, x_scale, weight_scale, bias, gate, tile_row, tile_column, rows, columns, tokens, out_batch,
            out_token, gate_batch, X_SCALED, HAS_BIAS, EPILOGUE, BM, BN // 2, PIECES // 2,
        )  # fmt: skip
        store_tile(
            right, out, x_scale, weight_scale, bias, gate, tile_row, tile_column + BN // 2, rows, columns, tokens,
            out_batch, out_token, gate_batch, X_SCALED, HAS_BIAS, EPILOGUE, BM, BN // 2, PIECES // 2,
        )  # fmt: skip


@triton.jit
def _store_piece(
    total, out, x_scale, weight_scale, bias, gate, row, column, rows, columns, tokens, out_batch, out_token,
    gate_batch, X_SCALED: tl.constexpr, HAS_BIAS: tl.constexpr, EPILOGUE: tl.constexpr,
):  # fmt: skip
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    value = total.to(tl.float32)
    if X_SCALED:
        value *= tl.load(x_scale + row, mask=row < rows, other=0.0)[:, None]
    value *= tl.load(weight_scale + column, mask=column < columns, other=0.0)[None, :]
    if HAS_BIAS:
        value += tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    if EPILOGUE == "gelu":
        value = gelu_tanh(value)
    wide_row = row.to(tl.int64)  # linear1 at 720p writes more than 2**31 elements
    sample = wide_row // tokens
    target = out + (sample * out_batch + wide_row % tokens * out_token)[:, None] + column[None, :]
    if EPILOGUE == "residual":
        factor = tl.load(gate + (sample * gate_batch)[:, None] + column[None, :], mask=inside, other=0.0)
        value = tl.load(target, mask=inside, other=0.0).to(tl.float32) + value * factor.to(tl.float32)
    tl.store(target, value.to(out.dtype.element_ty), mask=inside)
