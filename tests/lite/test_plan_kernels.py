"""What a plan assumes of a card by its capability is what a run chooses on such a card."""

from __future__ import annotations

import pytest
import torch

from hvlite.kernels import triton_state
from hvlite.lite import attention
from hvlite.lite.arithmetic import choose_arithmetic
from hvlite.lite.attention import choose_attention
from hvlite.lite.device import DeviceInfo
from hvlite.lite.planning.attention import KV_WIDTHS, attention_of, fused_of
from hvlite.lite.planning.request import PlanOptions, make_plan

CAPABILITIES = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0)]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_attention(capability, monkeypatch):
    usable = triton_state.TritonState(version="3.7.1", usable=True, reason="a test")
    monkeypatch.setattr(attention, "triton_state", lambda: usable)
    info = DeviceInfo(torch.device("cuda"), "a card", capability, 12 << 30)
    chosen = choose_attention("auto", info, torch.bfloat16)
    assert KV_WIDTHS[chosen.kv_name] == KV_WIDTHS[attention_of(capability)]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_arithmetic(capability):
    major, minor = capability
    number = 10 * major + minor
    chosen = choose_arithmetic("auto", number if number >= 80 else None)
    assert fused_of(capability) == tuple(name for name in ("int8", "fp8") if getattr(chosen, name) == "w8a8")


def test_every_block_of_720p_is_resident_on_12_gib():
    """With V in fp8, as cards from the RTX 40 series on take it; nobody has to ask for it."""
    plan = make_plan(PlanOptions(model="hunyuan-video-fp8", gpu="RTX 4070"))
    assert plan.fits
    assert plan.blocks.resident == plan.blocks.total == 60
    assert plan.token_chunk == 4096


def test_chunks_stay_large_enough_to_fill_a_card():
    """Smaller ones would leave room for another block, and cost more than its copy, which hides."""
    plan = make_plan(PlanOptions(model="hunyuan-video-fp8", gpu="RTX 4060"))
    assert plan.blocks.host
    assert plan.token_chunk == 4096


@pytest.mark.parametrize("gpu", ["RTX 4090", "RTX 3090"])
def test_fused_layers_take_no_time_to_widen(gpu):
    """int8 is fused on both: a step is estimated as one of plain 16-bit weights, which are never widened."""
    int8, bf16 = (
        make_plan(PlanOptions(model=f"hunyuan-video-{scheme}", gpu=gpu)).seconds_per_step for scheme in ("int8", "bf16")
    )
    assert int8 == pytest.approx(bf16)
