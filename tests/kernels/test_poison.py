"""What is allocated in these tests is not zero by luck."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_new_floats_are_nan(dtype: torch.dtype) -> None:
    like = torch.zeros(3, dtype=dtype)
    for made in (torch.empty(3, dtype=dtype), torch.empty_like(like), like.new_empty(3)):
        assert torch.isnan(made.float()).all()


def test_new_codes_are_no_codes() -> None:
    assert torch.empty(3, dtype=torch.int8).tolist() == [-128] * 3


def test_fake_tensors_stay_fake() -> None:
    with FakeTensorMode():
        assert torch.empty(3).shape == (3,)
