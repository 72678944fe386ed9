"""How fast a kernel could be at most, from its machine code and a card's data sheet. Arithmetic only.

The model of one round of the hot loop on one streaming multiprocessor (SM), in clock cycles:

    tensor = multiply-accumulates / rate of the tensor cores for that type
    issue  = instructions of all warps / 4, because each of the four schedulers issues one a cycle
    mufu   = exponentials of all warps * 2, because 16 lanes of the SM compute them
    bound  = operations of the round / max(tensor + issue, mufu), at the boost clock, on all SMs

Tensor time and issue time are added: with one block resident on an SM and its warps in step, they hardly overlap. The
model knows no latency, no memory and no power limit. Calibration with the attention kernel of sageattention 1.0.6,
bound beside the published rate in TOPS: RTX 3090 134 / 134, RTX 4090 311 / 322, RTX 5090 392 / 479, H100 561 / 518. So
it is good to about 20 %, and it is for comparing kernels on one card: most of its error is common to them.
"""

from __future__ import annotations

from dataclasses import dataclass

from .sass import HotLoop, multiply_adds

REGISTERS_PER_SM = 65536
REGISTER_UNIT = 256  # registers are given to a warp in such units
RESERVED_BYTES = 1024  # of shared memory, by the driver, for every block
MAX_WARPS_PER_BLOCK = 32


@dataclass(frozen=True)
class Rates:
    """Dense multiply-accumulates per cycle and SM, by the operands' type and the accumulator's; None: no such thing."""

    half: int
    half_fp16: int
    int8: int
    fp8: int | None = None
    fp8_fp16: int | None = None


@dataclass(frozen=True)
class Card:
    """What the model needs of a card: the vendor's figures. Shared memory: the most that one block may ask for."""

    name: str
    shared_limit_bytes: int
    shared_per_sm_bytes: int
    warps_per_sm: int
    sms: int
    clock_hz: float
    rates: Rates


_GEFORCE_8 = Rates(half=256, half_fp16=512, int8=1024)
_GEFORCE = Rates(half=256, half_fp16=512, int8=1024, fp8=512, fp8_fp16=1024)
CARDS = {
    80: Card("A100", 163 << 10, 164 << 10, 64, 108, 1.41e9, Rates(half=1024, half_fp16=1024, int8=2048)),
    86: Card("RTX 3090", 99 << 10, 100 << 10, 48, 82, 1.695e9, _GEFORCE_8),
    89: Card("RTX 4090", 99 << 10, 100 << 10, 48, 128, 2.52e9, _GEFORCE),
    90: Card("H100/H200", 227 << 10, 228 << 10, 64, 132, 1.83e9, Rates(2048, 2048, 4096, 4096, 4096)),
    120: Card("RTX 5090", 99 << 10, 100 << 10, 48, 170, 2.407e9, _GEFORCE),
}


@dataclass(frozen=True)
class Bound:
    """Tera-operations (a multiply-accumulate is two) per second if only this mattered; `bound` is the answer."""

    tensor: float
    issue: float
    bound: float


def static_bound(loop: HotLoop, warps: int, loop_flops: int, card: Card) -> Bound | None:
    """The bound of a loop whose round is `loop_flops` operations; None without products or for unknown rates."""
    tensor = tensor_cycles(loop, card.rates)
    if not loop_flops or not tensor:
        return None
    issue, mufu = loop.instructions / 4, loop.mufu * 2
    operations = loop_flops * rounds(loop, warps, loop_flops) * card.sms * card.clock_hz / warps / 1e12
    return Bound(operations / tensor, operations / issue, operations / max(tensor + issue, mufu))


def rounds(loop: HotLoop, warps: int, loop_flops: int) -> int:
    """How many rounds the loop's code holds: its products over those of one round."""
    found = 2 * warps * sum(count * multiply_adds(opcode) for opcode, count in loop.tensor.items())
    return max(1, round(found / loop_flops))


def tensor_cycles(loop: HotLoop, rates: Rates) -> float:
    """Cycles of the SM's tensor cores for one warp's pass; 0 if the card has no rate for one of the types."""
    total = 0.0
    for opcode, count in loop.tensor.items():
        rate = rate_of(opcode, rates)
        if rate is None:
            return 0.0
        total += count * multiply_adds(opcode) / rate
    return total


def rate_of(opcode: str, rates: Rates) -> int | None:
    """The card's rate for an instruction such as HMMA.16816.F32.BF16 or QGMMA.64x128x32.F32.E4M3.E4M3."""
    kind, fp16_sum = opcode.split(".")[0], ".F16" in opcode and ".F32" not in opcode
    if kind.startswith("I"):
        return rates.int8
    if kind.startswith("Q"):
        return rates.fp8_fp16 if fp16_sum else rates.fp8
    if kind.startswith("H"):
        return rates.half_fp16 if fp16_sum else rates.half
    return None


def blocks_per_sm(card: Card, registers: int, shared_bytes: int, warps: int) -> int:
    """How many blocks fit onto an SM at once; 0: the kernel cannot be launched."""
    if warps > MAX_WARPS_PER_BLOCK or shared_bytes > card.shared_limit_bytes:
        return 0
    per_warp = -(-max(registers, 1) * 32 // REGISTER_UNIT) * REGISTER_UNIT
    by_registers = REGISTERS_PER_SM // (per_warp * warps)
    by_shared = card.shared_per_sm_bytes // (shared_bytes + RESERVED_BYTES)
    return min(by_registers, by_shared, card.warps_per_sm // warps)
