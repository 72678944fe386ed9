"""Launch settings of the attention kernels, by kernel and compute capability."""

from __future__ import annotations

from .launch import CAPABILITIES, Launch

BLOCKS = "compiled, not measured: 64 tokens of one head a program, no spill"
CHANNELS = "compiled, not measured: 32 channels a program, 96 programs at 24 heads of 128, no spill"
FITS = "compiled: no spill, one block on a multiprocessor in 99 KiB; 4 warps spill; not measured"
PAIRS = "static bound 7 to 12 % above that of one block a round, 0 spills"
TILES = {"BM": 128, "BN": 64, "PAIRED": 0}
PAIR = {"BM": 128, "BN": 64, "PAIRED": 1}

LAUNCHES: dict[str, dict[int, Launch]] = {
    "joint_attention 16-bit": {each: Launch(TILES, 8, 2, FITS) for each in CAPABILITIES},
    "joint_attention int8-fp16": {
        80: Launch(TILES, 8, 3, FITS),
        86: Launch(PAIR, 8, 2, "static bound 146 TOPS against 140 of one block a round, 0 spills, 65,556 B"),
        89: Launch(PAIR, 8, 2, PAIRS),
        90: Launch(PAIR, 8, 2, "static bound 695 TOPS against 619 of one block a round, 0 spills, 114,708 B"),
        120: Launch(TILES, 8, 3, FITS),
    },
    "joint_attention int8-fp8-fp16": {each: Launch(PAIR, 8, 2, PAIRS) for each in CAPABILITIES if each >= 89},
    "joint_attention int8-fp8": {each: Launch(PAIR, 8, 2, PAIRS) for each in CAPABILITIES if each >= 89},
    "qk_norm_rope": {each: Launch({"BLOCK": 64}, 4, 1, BLOCKS) for each in CAPABILITIES},
    "quantize_v": {each: Launch({"WIDTH": 32, "BLOCK": 64}, 4, 2, CHANNELS) for each in CAPABILITIES},
    "align_v": {each: Launch({"BLOCK": 64}, 4, 1, BLOCKS) for each in CAPABILITIES},
}
