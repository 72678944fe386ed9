"""Which attention runs where, why, and what is refused."""

from __future__ import annotations

import pytest
import torch

from hvlite.errors import ConfigError, MissingPartError, UnsupportedDeviceError
from hvlite.kernels import sdpa
from hvlite.kernels.launch import CAPABILITIES
from hvlite.kernels.triton_state import TritonState
from hvlite.lite import attention
from hvlite.lite.attention import AUTO, choose_attention
from hvlite.lite.device import DeviceInfo

CPU = DeviceInfo(torch.device("cpu"), "CPU")


@pytest.fixture(autouse=True)
def usable_triton(monkeypatch):
    monkeypatch.setattr(attention, "triton_state", lambda: TritonState("3.7.1", True, "fine"))
    monkeypatch.setattr(attention, "require_triton", lambda purpose, state: "3.7.1")


def card(capability: int) -> DeviceInfo:
    return DeviceInfo(torch.device("cuda", 0), "a card", divmod(capability, 10), 24 << 30)


@pytest.mark.parametrize(
    ("capability", "wanted"),
    [
        (75, "torch sdpa"),
        (80, "hvlite int8-fp16"),
        (86, "hvlite int8-fp16"),
        (87, "hvlite int8-fp16"),
        (89, "hvlite int8-fp8-fp16"),
        (90, "hvlite int8-fp8"),
        (100, "hvlite int8-fp8"),
        (120, "hvlite int8-fp8-fp16"),
    ],
)
def test_auto_picks_by_capability(capability, wanted):
    chosen = choose_attention("auto", card(capability), torch.bfloat16)
    assert str(chosen) == wanted
    assert chosen.why


def test_every_card_has_an_entry_that_it_can_run():
    assert set(AUTO) == set(CAPABILITIES)
    assert all(capability >= variant.least_capability and why for capability, (variant, why) in AUTO.items())


def test_auto_is_exact_on_a_cpu_and_in_fp32(monkeypatch):
    assert str(choose_attention("auto", CPU, torch.float32)) == "torch sdpa"
    assert str(choose_attention("auto", card(90), torch.float32)) == "torch sdpa"
    monkeypatch.setattr(attention, "triton_state", lambda: TritonState(None, False, "not installed"))
    chosen = choose_attention("auto", card(90), torch.bfloat16)
    assert (str(chosen), chosen.why) == ("torch sdpa", "Triton: not installed")


def test_what_was_named_is_taken_or_refused():
    assert str(choose_attention("sdpa", card(90), torch.bfloat16)) == "torch sdpa"
    assert str(choose_attention("hvlite", CPU, torch.float32)) == "hvlite int8-fp16"
    assert str(choose_attention("hvlite:int8-fp8", CPU, torch.float32)) == "hvlite int8-fp8"
    assert str(choose_attention("hvlite:16-bit", card(86), torch.bfloat16)) == "hvlite 16-bit"
    with pytest.raises(UnsupportedDeviceError, match="no fp8"):
        choose_attention("hvlite:int8-fp8", card(86), torch.bfloat16)
    with pytest.raises(UnsupportedDeviceError, match=r"8\.0"):
        choose_attention("hvlite", card(75), torch.bfloat16)
    with pytest.raises(UnsupportedDeviceError, match="CUDA"):
        choose_attention("sage", CPU, torch.float32)
    for name in ("flash", "hvlite:int4", "sdpa:int8-fp8", ""):
        with pytest.raises(ConfigError, match="no such attention"):
            choose_attention(name, CPU, torch.float32)


def test_sage_without_its_package(monkeypatch):
    monkeypatch.setattr(sdpa, "find_spec", lambda name: None)
    with pytest.raises(MissingPartError, match="needs the package sageattention"):
        choose_attention("sage", card(90), torch.bfloat16)


def test_sage_is_refused_where_it_is_wrong():
    sdpa.check_sage_shape(118_784, 128)
    with pytest.raises(ConfigError, match="118,800 tokens"):
        sdpa.check_sage_shape(118_800, 128)
    with pytest.raises(ConfigError, match="heads of 64, 96 or 128"):
        sdpa.check_sage_shape(64, 32)


def test_heads_our_kernel_has_not():
    device = torch.device("cuda", 0)
    chosen = choose_attention("auto", card(90), torch.bfloat16)
    assert chosen.for_heads(128, device) is chosen
    assert str(chosen.for_heads(96, device)) == "torch sdpa"
    assert "heads of 96" in chosen.for_heads(96, device).why
    with pytest.raises(ConfigError, match="heads of 96"):
        choose_attention("hvlite", card(90), torch.bfloat16).for_heads(96, device)
