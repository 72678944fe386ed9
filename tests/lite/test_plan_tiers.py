"""Bytes of the blocks in every mix of tiers: the plan's against what the streaming code really allocates."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from hvlite.benchmarks.measure import AllocationTracker
from hvlite.lite.planning.blocks import arrange_blocks, make_step
from hvlite.lite.planning.folder import stored_folder
from hvlite.lite.planning.model import ModelSizes, model_sizes
from hvlite.lite.planning.types import Machine, Work
from hvlite.lite.streaming.streamed_transformer import open_streamed_transformer
from hvlite.lite.streaming.tiers import TierCounts
from hvlite.quantize.convert import QuantizeOptions, run_quantize

BLOCKS = 4
MIXES = [TierCounts(*counts) for counts in product(range(BLOCKS + 1), repeat=3) if sum(counts) == BLOCKS]


@pytest.fixture(scope="module", params=["fp8", "int8", "bf16"])
def folder(request, golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiers") / request.param
    run_quantize(QuantizeOptions(source=golden / "ckpts_diffusers", output=folder, transformer=request.param))
    return folder


@pytest.fixture(scope="module")
def model(folder) -> ModelSizes:
    stored, streamable = stored_folder(folder)
    assert streamable
    return model_sizes(stored, streamable=streamable)


@pytest.mark.parametrize("tiers", MIXES, ids=str)
def test_bytes_in_a_mix_of_tiers(folder, model, tiers, record_property):
    machine = Machine(vram_bytes=0)
    step = make_step(model, Work(height=64, width=64, frames=5, steps=2), machine, 1024)
    planned = arrange_blocks(model, machine, step, tiers)
    with AllocationTracker() as memory:
        opened = open_streamed_transformer(folder, torch.device("cpu"), torch.float32, tiers=tiers)
        held = memory.live_bytes
        opened.close()
    assert opened.blocks.tiers == tiers
    assert planned.device_bytes + planned.host.held_bytes == held
    record_property("accounting", 1.0)


def test_a_folder_is_counted_like_its_preset(model):
    assert len(model.blocks) == BLOCKS
    assert model.modulation_bytes > 0
    assert model.llama["num_hidden_layers"] == 4
