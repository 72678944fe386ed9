"""A process on a CPU holds what the plan counts: freed memory goes back, and a convolution's copies are planned."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hvlite.lite.planning.convolutions import convolution_copies
from hvlite.lite.planning.decode import HEAP_HOLES_BYTES, Decode, VaeSizes, official_tile
from hvlite.lite.planning.maps import levels_of
from hvlite.lite.planning.stages import decode_stage
from hvlite.lite.planning.types import HOST_BASE_BYTES, HOST_CUDA_BYTES, Machine
from hvlite.quantize.architecture import VaeConfig

HELD = """
import re, sys, torch
from pathlib import Path
torch.set_num_threads(1)
def held(name):
    return int(re.search(rf"^{name}:\\s+(\\d+) kB$", Path("/proc/self/status").read_text(), re.M)[1]) << 10
"""

LOADED = (
    HELD
    + """
from hvlite.lite.host_heap import return_freed_memory
if sys.argv[1] == "returned":
    return_freed_memory()
torch.ones(7 << 20)  # from now on glibc recycles what is smaller
before, kept = held("VmRSS"), []
for index in range(20):  # each is larger than the hole that the one before left
    stored = torch.ones((2 << 20) + (index << 17), dtype=torch.float16)
    kept += [stored.float(), torch.zeros(512)]
    del stored
print(held("VmRSS") - before, sum(tensor.nbytes for tensor in kept))
"""
)

DECODED = (
    HELD
    + """
import hvlite
from hvlite.lite.models.vae import AutoencoderKLCausal3D
from hvlite.lite.models.vae_lean import decode_lean
from hvlite.lite.planning.convolutions import convolution_copies
from hvlite.lite.planning.decode import tile_moment
from hvlite.lite.planning.maps import levels_of
from hvlite.quantize.architecture import VaeConfig
hvlite.load(device="cpu")
config, tile, lean = VaeConfig(block_out_channels=(64, 128, 256, 256)), (2, 16, 16), sys.argv[1] == "lean"
with torch.no_grad():
    vae = AutoencoderKLCausal3D(config)
    decode = (lambda z: decode_lean(vae, z)) if lean else vae.decode_tile
    decode(torch.zeros(1, 16, 1, 2, 2))
    Path("/proc/self/clear_refs").write_text("5")
    before = held("VmRSS")
    decode(torch.zeros(1, 16, *tile))
print(
    held("VmHWM") - before,
    tile_moment(config, tile, 4, lean=lean).nbytes,
    convolution_copies(list(levels_of(config, tile)), lean=lean),
)
"""
)
SLACK = 32 << 20


def numbers(program: str, argument: str) -> list[int]:
    command = [sys.executable, "-c", program, argument]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(word) for word in run.stdout.split()]


def test_weights_that_are_converted_leave_no_holes():
    grown, kept = numbers(LOADED, "returned")
    assert kept > 200 << 20
    assert grown < 1.05 * kept, f"{grown / kept:.2f} times what is kept"


def test_the_official_tile_whole_copies_its_largest_map():
    levels = list(levels_of(VaeConfig(), (17, 32, 32)))
    taken = 256 * (65 + 2) * (256 + 2) ** 2  # by the last upsampler's convolution, padded
    assert convolution_copies(levels, lean=False) == 4 * (taken + 256 * 256 * 27)
    assert convolution_copies(levels, lean=True) < 4 * taken // 16


def test_only_a_cpu_needs_room_for_the_copies():
    decode = Decode(config=VaeConfig(), height=64, width=64, frames=5, tile=official_tile(VaeConfig()), w=4)
    vae = VaeSizes(vae_config=VaeConfig(), vae_elements=0)
    on_cpu = decode_stage(vae, Machine(vram_bytes=0), decode).ram_bytes - HOST_BASE_BYTES
    on_card = decode_stage(vae, Machine(vram_bytes=8 << 30), decode)
    off_card = on_card.ram_bytes - HOST_BASE_BYTES - HOST_CUDA_BYTES
    copies = convolution_copies(list(levels_of(VaeConfig(), (2, 8, 8))), lean=False)
    assert on_cpu - on_card.vram_bytes - off_card == copies + HEAP_HOLES_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("way", ["whole", "lean"])
def test_a_tile_decoded_on_a_cpu_stays_below_its_plan(way):
    grown, tensors, copies = numbers(DECODED, way)
    assert grown < tensors + copies + SLACK
    if way == "whole":
        assert grown > tensors + SLACK, "the copies need not be planned"
