"""The hot loop is found in machine code, and its instructions are counted."""

from __future__ import annotations

import pytest

from hvlite.kernels.aot.sass import find_hot_loop, multiply_adds

CODE = """
.L_x_0:
        /*0000*/                   S2R R0, SR_TID.X ;
.L_x_1:
        /*0010*/                   LDSM.16.M88.4 R4, [R0] ;
        /*0020*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0030*/              @P0  HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0040*/                   MUFU.EX2 R1, R2 ;
        /*0050*/                   STL.64 [R1+0x8], R2 ;
        /*0060*/              @!P1 BRA `(.L_x_1) ;
.L_x_2:
        /*0070*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0080*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0090*/                   MUFU.EX2 R1, R2 ;
        /*00a0*/                   FADD R1, R1, R2 ;
        /*00b0*/                   FADD R1, R1, R2 ;
        /*00c0*/                   FADD R1, R1, R2 ;
        /*00d0*/              @!P1 BRA `(.L_x_2) ;
        /*00e0*/               @P2 BRA `(.L_x_3) ;
        /*00f0*/                   FADD R1, R1, R2 ;
.L_x_3:
        /*0100*/                   EXIT ;
"""


def test_of_two_loops_with_as_many_products_the_shorter_is_hot() -> None:
    loop = find_hot_loop(CODE)
    assert loop.instructions == 6
    assert loop.tensor == {"HMMA.16816.F32.BF16": 2}
    assert (loop.mufu, loop.local) == (1, 1)


def test_without_products_the_longest_loop_counts() -> None:
    loop = find_hot_loop(CODE.replace("HMMA.16816.F32.BF16", "FFMA"))
    assert (loop.instructions, loop.tensor) == (7, {})


def test_a_branch_forwards_makes_no_loop() -> None:
    code = "\n".join(line for line in CODE.splitlines() if "@!P1" not in line)
    assert find_hot_loop(code).instructions == 15


@pytest.mark.parametrize(
    ("opcode", "count"),
    [
        ("HMMA.16816.F32.BF16", 16 * 8 * 16),
        ("HMMA.1688.F32.TF32", 16 * 8 * 8),
        ("IMMA.16832.S8.S8.SAT", 16 * 8 * 32),
        ("QMMA.16832.F16.E4M3.E4M3", 16 * 8 * 32),
        ("QGMMA.64x128x32.F32.E4M3.E4M3", 64 * 128 * 32 // 4),
    ],
)
def test_shapes(opcode: str, count: int) -> None:
    assert multiply_adds(opcode) == count


def test_an_unknown_shape_is_an_error() -> None:
    with pytest.raises(ValueError, match="FOO"):
        multiply_adds("HMMA.FOO")
