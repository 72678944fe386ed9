"""The model's arithmetic, with numbers that can be checked by hand."""

from __future__ import annotations

import pytest

from hvlite.kernels.aot.sass import HotLoop
from hvlite.kernels.aot.static_bound import CARDS, blocks_per_sm, rounds, static_bound, tensor_cycles
from hvlite.kernels.launch import CAPABILITIES

# The loop of sageattention 1.0.6 on sm_86: 128 x 64 keys, 8 warps, heads of 128.
SAGE = HotLoop(instructions=639, tensor={"IMMA.16832.S8.S8": 32, "HMMA.16816.F16": 64}, mufu=34, local=0)
SAGE_FLOPS = 4 * 128 * 64 * 128


def test_every_capability_has_a_card() -> None:
    assert tuple(CARDS) == CAPABILITIES


def test_bound_of_a_known_loop() -> None:
    """32 * 4096 / 1024 + 64 * 2048 / 512 = 384 cycles of tensor cores a warp, 639 / 4 of issue."""
    bound = static_bound(SAGE, 8, SAGE_FLOPS, CARDS[86])
    assert bound is not None
    peak = SAGE_FLOPS / 8 * 82 * 1.695e9 / 1e12
    assert bound.tensor == pytest.approx(peak / 384)
    assert bound.issue == pytest.approx(peak / (639 / 4))
    assert bound.bound == pytest.approx(peak / (384 + 639 / 4))
    assert bound.bound == pytest.approx(134, abs=0.5)


def test_an_unrolled_loop_has_the_same_bound() -> None:
    twice = HotLoop(1278, {"IMMA.16832.S8.S8": 64, "HMMA.16816.F16": 128}, 68, 0)
    assert rounds(twice, 8, SAGE_FLOPS) == 2
    assert static_bound(twice, 8, SAGE_FLOPS, CARDS[86]) == static_bound(SAGE, 8, SAGE_FLOPS, CARDS[86])


def test_exponentials_can_be_the_limit() -> None:
    loop = HotLoop(100, {"HMMA.16816.F16": 64}, mufu=1000, local=0)
    bound = static_bound(loop, 8, 2 * 8 * 64 * 2048, CARDS[90])
    assert bound is not None
    assert bound.bound == pytest.approx(2 * 64 * 2048 * 132 * 1.83e9 / 2000 / 1e12)


def test_an_fp16_sum_runs_at_twice_the_rate_on_geforce() -> None:
    wide = HotLoop(0, {"QMMA.16832.F32.E4M3.E4M3": 8}, 0, 0)
    narrow = HotLoop(0, {"QMMA.16832.F16.E4M3.E4M3": 8}, 0, 0)
    for capability, ratio in ((89, 2), (120, 2), (90, 1)):
        rates = CARDS[capability].rates
        assert tensor_cycles(wide, rates) == ratio * tensor_cycles(narrow, rates)


def test_no_products_no_bound() -> None:
    assert static_bound(HotLoop(50, {}, 4, 0), 4, 1000, CARDS[86]) is None
    assert static_bound(HotLoop(50, {"QMMA.16832.F32.E4M3.E4M3": 8}, 4, 0), 4, 1000, CARDS[86]) is None


@pytest.mark.parametrize(
    ("capability", "registers", "shared_bytes", "warps", "blocks"),
    [
        (86, 178, 90124, 8, 1),
        (86, 64, 1024, 4, 8),  # registers: 65536 / (64 * 32 * 4)
        (86, 32, 49 * 1024, 8, 2),  # shared memory: 100 KiB / 50 KiB
        (86, 32, 0, 16, 3),  # 48 warps
        (90, 32, 0, 16, 4),  # 64 warps
        (86, 64, 99 * 1024 + 1, 4, 0),
        (80, 64, 163 * 1024, 4, 1),
        (86, 255, 0, 16, 0),
        (86, 32, 0, 64, 0),
    ],
)
def test_blocks_on_a_multiprocessor(
    capability: int, registers: int, shared_bytes: int, warps: int, blocks: int
) -> None:
    assert blocks_per_sm(CARDS[capability], registers, shared_bytes, warps) == blocks
