"""What a process really holds, seen from outside of the allocator: a streamed model is as small as it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hvlite.quantize.architecture import TransformerConfig
from hvlite.quantize.readers.shapes import expected_transformer_shapes
from hvlite.quantize.scheme import SCHEMES
from hvlite.quantize.writer import file_order, make_header

BLOCKS = 8
CONFIG = TransformerConfig(hidden_size=1024, heads_num=8, mm_double_blocks_depth=BLOCKS, mm_single_blocks_depth=0)
MIB = 1 << 20
SLACK_BYTES = 12 * MIB

CHILD = """
import json, sys
from pathlib import Path
import psutil, torch
from hvlite.lite.streaming.block_files import BlockFile
from hvlite.lite.streaming.copy_queue import CpuDevice
from hvlite.lite.events import ignore
from hvlite.lite.streaming.streamed_blocks import StreamedBlocks, StreamOptions
from hvlite.quantize.architecture import TransformerConfig
from hvlite.quantize.scheme import SCHEMES

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

folder, config, schemes, tier, ring = json.loads(sys.argv[1])
config = TransformerConfig(**config)
schemes = {name: SCHEMES[scheme] for name, scheme in schemes.items()}
files = [BlockFile.open(path, path.stem, schemes) for path in sorted(Path(folder).iterdir())]
torch.zeros(1 << 20).sum()
before = psutil.Process().memory_info().rss
blocks = StreamedBlocks(None, config, files, [tier] * len(files), CpuDevice(), StreamOptions(ring=ring), ignore)
for _ in range(3):
    for block in blocks.each():
        block.img_mlp.fc1.weight.view(torch.uint8)[::7].max()
print(json.dumps({"grown": peak() - before, "block": files[0].nbytes}))
blocks.close()
"""


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder of block files, 24 MiB each, and how a block's weights are stored."""
    folder = tmp_path_factory.mktemp("blocks")
    shapes = expected_transformer_shapes(CONFIG)
    inside = {
        name.removeprefix("double_blocks.0."): shape
        for name, shape in shapes.items()
        if name.startswith("double_blocks.0.") and "_mod." not in name
    }
    schemes = {name: "fp8" if len(shape) == 2 else "bf16" for name, shape in inside.items()}
    for index in range(BLOCKS):
        block = f"double_blocks.{index}"
        stored = {
            key: info
            for name, shape in inside.items()
            for key, info in SCHEMES[schemes[name]].tensors(f"{block}.{name}", shape).items()
        }
        layout = {key: stored[key] for key in file_order(stored)}
        header = make_header(layout)
        with (folder / f"{block}.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for info in layout.values():
                file.write(torch.ones(info.shape, dtype=info.torch_dtype).view(torch.uint8).numpy().tobytes())
    return folder, schemes


@pytest.mark.slow
@pytest.mark.parametrize(("tier", "ring", "held"), [("disk", 2, 4), ("host", 2, 10), ("resident", 2, 10)])
def test_a_process_grows_by_slots_and_ring_only(blocks, tier, ring, held):
    """In blocks: two slots and the ring from disk; all and two slots, or all and two for loading them, otherwise."""
    folder, schemes = blocks
    config = {"hidden_size": 1024, "heads_num": 8, "mm_double_blocks_depth": BLOCKS, "mm_single_blocks_depth": 0}
    argument = json.dumps([str(folder), config, schemes, tier, ring])
    done = subprocess.run([sys.executable, "-c", CHILD, argument], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["block"] * (held - 1) < seen["grown"] < seen["block"] * held + SLACK_BYTES
