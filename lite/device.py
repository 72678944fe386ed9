"""Where the work runs, probed once and passed on as a value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..errors import MemoryLimitError, UnsupportedDeviceError
from .recovery.memory import out_of_memory

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class DeviceInfo:
    """A device and what it can do. `total_bytes` is its memory; 0 for the CPU, whose memory is the host's.

    `uuid` is the card's own number, the same for every process whatever CUDA_VISIBLE_DEVICES says.
    """

    device: torch.device
    name: str
    capability: tuple[int, int] | None = None
    total_bytes: int = 0
    uuid: str = ""

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"


@dataclass(frozen=True)
class Dtypes:
    """The dtype each part computes in."""

    transformer: torch.dtype
    vae: torch.dtype
    text: torch.dtype


def probe_device(name: str = "auto") -> DeviceInfo:
    """`auto` is the current CUDA device, else the CPU; `cuda` raises UnsupportedDeviceError where there is none.

    A CUDA device always comes with its index: some of torch's calls, the memory cap's among them, want one.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return DeviceInfo(device=torch.device("cpu"), name="CPU")
    if not torch.cuda.is_available():
        raise UnsupportedDeviceError(
            f"{name} was asked for, but this torch ({torch.__version__}) sees no CUDA device",
            hint="install torch's CUDA build and its driver, or use --device cpu",
        )
    asked = torch.device("cuda" if name == "auto" else name)
    device = torch.device("cuda", torch.cuda.current_device() if asked.index is None else asked.index)
    properties = torch.cuda.get_device_properties(device)
    capability = (properties.major, properties.minor)
    return DeviceInfo(
        device=device,
        name=properties.name,
        capability=capability,
        total_bytes=properties.total_memory,
        uuid=str(getattr(properties, "uuid", device.index or 0)),
    )


def choose_dtypes(info: DeviceInfo, precision: str | None = None) -> Dtypes:
    """On a CPU everything is fp32. On a GPU the official choice: transformer bf16 (or `precision`), the rest fp16."""
    if not info.is_cuda:
        return Dtypes(transformer=torch.float32, vae=torch.float32, text=torch.float32)
    transformer = PRECISIONS[precision or "bf16"]
    if transformer is torch.bfloat16 and info.capability is not None and info.capability < (8, 0):
        raise UnsupportedDeviceError(
            f"{info.name} (capability {info.capability[0]}.{info.capability[1]}) has no bf16",
            hint="use --precision fp16 or fp32, or a card from the RTX 30 series on",
        )
    return Dtypes(transformer=transformer, vae=torch.float16, text=torch.float16)


def cap_device_memory(info: DeviceInfo, nbytes: int) -> None:
    """Let torch allocate at most `nbytes` on a CUDA device from now on: more is an out-of-memory error, not a spill."""
    if info.is_cuda:
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(0, nbytes) / info.total_bytes), info.device)


SMALLER = "fewer --frames or a smaller --resolution needs less; the work so far is kept"


@contextmanager
def memory_errors(doing: str, hint: str = SMALLER) -> Iterator[None]:
    """Turns an allocation that failed into MemoryLimitError; `doing` says in which stage, `hint` what needs less."""
    try:
        yield
        return
    except Exception as error:
        failure = out_of_memory(error)
        if failure is None:
            raise
    # Raised outside the except block: its traceback would hold the tensors that filled the memory.
    raise MemoryLimitError(f"out of memory while {doing}: {failure}", hint=hint)
