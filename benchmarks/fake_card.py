"""Fake tensors on the CPU in place of a card's: a step's memory is counted as a card runs it, where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..kernels import ops, quantized_attention

ASKING = (ops, quantized_attention)  # the modules that choose between a kernel and its PyTorch reference
ASKED = "runs_kernels"  # what they ask, by the name they imported it under


@contextmanager
def kernels_on_fakes() -> Iterator[None]:
    """In this scope operations take the way that they take on a card, whatever the device of their tensors.

    Kernels are registered with fakes, which make the tensors that a card would. A torch without CUDA cannot slice fake
    CUDA tensors, so fake CPU tensors stand for them, and the question whether kernels run there is answered with yes.
    Only for fake tensors: a kernel launched on real ones of the CPU fails. What was there before comes back at the end,
    after an error too.
    """
    before = [(module, getattr(module, ASKED)) for module in ASKING]
    try:
        for module in ASKING:
            setattr(module, ASKED, _yes)
        yield
    finally:
        for module, function in before:
            setattr(module, ASKED, function)


def _yes(device: torch.device) -> bool:
    return True
