"""Launch settings of the kernels around the linear layers and of the VAE, by kernel and compute capability."""

from __future__ import annotations

from .launch import CAPABILITIES, Launch

ROWS = "compiled, not measured: 16-byte loads of bf16 (8 values a thread and piece), no spill at 3072 channels"
WIDE_ROWS = "compiled, not measured: 15,360 channels stay in registers (60 a thread), so the row is read once"
MAPS = "compiled, not measured: 16-byte loads of fp16, 8 values a thread and block"
MM = "compiled: the highest static bound without a spill in 99 KiB (128x256x64, 8 warps); not measured"
DECODE = "compiled: no spill, the weight's tile is decoded in registers; not measured"
BIG = {"BM": 128, "BN": 256, "BK": 64, "GROUP": 8, "PIECES": 4}
SQUARE = {"BM": 128, "BN": 128, "BK": 64, "GROUP": 8, "PIECES": 1}

LAUNCHES: dict[str, dict[int, Launch]] = {
    "modulated_norm": {each: Launch({"BLOCK": 1024}, 4, 1, ROWS) for each in CAPABILITIES},
    "gated_residual": {each: Launch({"BLOCK": 1024}, 4, 1, ROWS) for each in CAPABILITIES},
    "gelu_tanh": {each: Launch({"BLOCK": 1024}, 4, 1, ROWS) for each in CAPABILITIES},
    "quantize_tokens": {each: Launch({"BLOCK": 1024}, 8, 1, WIDE_ROWS) for each in CAPABILITIES},
    "int8_mm": {each: Launch(BIG, 8, 3, MM) for each in CAPABILITIES},
    "fp8_mm": {each: Launch(BIG, 8, 3, MM) for each in CAPABILITIES if each >= 89},
    "w8a16_mm": {each: Launch(SQUARE, 8, 3, DECODE) for each in CAPABILITIES},
    "group_norm": {each: Launch({"BLOCK": 2048}, 8, 1, MAPS) for each in CAPABILITIES},
}
