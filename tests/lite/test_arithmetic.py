"""How quantized layers multiply on which card: a pure function of what is asked and the capability."""

from __future__ import annotations

import pytest
import torch

from hvlite.errors import ConfigError, UnsupportedDeviceError
from hvlite.lite.arithmetic import LinearArithmetic, choose_arithmetic, describe_kernels, kernel_capability


@pytest.mark.parametrize(
    ("asked", "capability", "int8", "fp8"),
    [
        ("auto", None, "dequantize", "dequantize"),
        ("auto", 80, "w8a8", "dequantize"),
        ("auto", 86, "w8a8", "dequantize"),
        ("auto", 89, "w8a8", "w8a8"),
        ("auto", 90, "w8a8", "w8a8"),
        ("auto", 120, "w8a8", "w8a8"),
        ("dequantize", 90, "dequantize", "dequantize"),
        ("w8a8", None, "w8a8", "w8a8"),
        ("w8a8", 120, "w8a8", "w8a8"),
    ],
)
def test_choice(asked, capability, int8, fp8):
    assert choose_arithmetic(asked, capability) == LinearArithmetic(int8, fp8)


def test_an_older_card_refuses_fp8_products():
    with pytest.raises(UnsupportedDeviceError, match="does not multiply fp8"):
        choose_arithmetic("w8a8", 86)
    with pytest.raises(ConfigError, match="fast"):
        choose_arithmetic("fast", 86)


def test_the_summary_names_what_differs():
    assert str(LinearArithmetic("w8a8", "w8a8")) == "w8a8"
    assert str(choose_arithmetic("auto", 86)) == "int8 w8a8, fp8 dequantize"
    assert choose_arithmetic("auto", 86).of(torch.float8_e4m3fn) == "dequantize"
    assert describe_kernels(torch.device("cpu"), choose_arithmetic("auto", None)) == "dequantize"


def test_a_cpu_runs_the_references():
    assert kernel_capability(torch.device("cpu")) is None
