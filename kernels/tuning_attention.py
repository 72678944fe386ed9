"""Launch settings of the attention kernels, by kernel and compute capability."""

from __future__ import annotations

from .launch import CAPABILITIES, Launch

BLOCKS = "compiled, not measured: 64 tokens of one head a program, no spill"
CHANNELS = "compiled, not measured: 32 channels a program, 96 programs at 24 heads of 128, no spill"
FITS = "compiled: no spill, one block on a multiprocessor in 99 KiB; 4 warps spill; not measured"
TILES = {"BM": 128, "BN": 64, "PAIRED": 0}
PAIR = {"BM": 128, "BN": 64, "PAIRED": 1}
HALF_PAIR = {"BM": 64, "BN": 64, "PAIRED": 1}

LAUNCHES: dict[str, dict[int, Launch]] = {
    "joint_attention 16-bit": {each: Launch(TILES, 8, 2, FITS) for each in CAPABILITIES},
    "joint_attention int8-fp16": {
        80: Launch(TILES, 8, 3, "static bound 244 TOPS, 0 spills, 65,544 B; two blocks a round spill 128 bytes"),
        86: Launch(PAIR, 8, 2, "static bound 146 TOPS, 0 spills, 65,556 B; 3 stages: 114,712 B, too much"),
        89: Launch(PAIR, 8, 2, "static bound 339 TOPS, 0 spills, 65,556 B"),
        90: Launch(PAIR, 8, 2, "static bound 695 TOPS, 0 spills, 114,708 B"),
        120: Launch(TILES, 8, 3, "static bound 414 TOPS, 0 spills, 65,544 B; two blocks a round spill 128 bytes"),
    },
    "joint_attention int8-fp8-fp16": {
        89: Launch(PAIR, 8, 2, "static bound 464 TOPS, 0 spills, 49,172 B"),
        90: Launch(PAIR, 8, 2, "static bound 832 TOPS, 0 spills, 81,940 B"),
        120: Launch(PAIR, 8, 2, "static bound 598 TOPS, 0 spills, 49,172 B"),
    },
    "joint_attention int8-fp8": {
        89: Launch(HALF_PAIR, 4, 2, "static bound 311 TOPS, 0 spills; 128 rows spill 104 bytes: two sums in fp32"),
        90: Launch(PAIR, 8, 2, "static bound 879 TOPS, 0 spills, 81,940 B"),
        120: Launch(HALF_PAIR, 8, 2, "static bound 366 TOPS, 0 spills; 128 rows spill 120 bytes: two sums in fp32"),
    },
    "qk_norm_rope": {each: Launch({"BLOCK": 64}, 4, 1, BLOCKS) for each in CAPABILITIES},
    "quantize_v": {each: Launch({"WIDTH": 32, "BLOCK": 64}, 4, 2, CHANNELS) for each in CAPABILITIES},
    "align_v": {each: Launch({"BLOCK": 64}, 4, 1, BLOCKS) for each in CAPABILITIES},
}

# What spills under Triton 3.6 and not under 3.7 is started otherwise there.
UNPAIRED = "0 spills, 40,964 B; two blocks a round spill 32 bytes under Triton 3.6"
LAUNCHES_36: dict[str, dict[int, Launch]] = {
    "joint_attention int8-fp16": {
        86: Launch(TILES, 8, 2, f"static bound 141 TOPS, {UNPAIRED}"),
        89: Launch(TILES, 8, 2, f"static bound 327 TOPS, {UNPAIRED}"),
    },
}
