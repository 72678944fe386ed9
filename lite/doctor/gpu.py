"""The graphics card: is there one, does the driver suit torch's build, how much memory is free and who has the rest."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from .finding import Finding, Patient, State
from .nvidia import (
    CARD_FIELDS,
    HOLDER_FIELDS,
    Card,
    Driver,
    Holder,
    ask,
    driver_suits,
    read_cards,
    read_driver,
    read_holders,
)

GIB = 1 << 30
OLDEST = (7, 5)
BF16 = (8, 0)
CSV = "--format=csv,noheader,nounits"
OTHER_TORCH = "pip install --force-reinstall torch   # with the index that PyTorch's Get started page names"
FIRST_DRIVER = {13: "580", 12: "525"}  # the first driver branch of a CUDA major version


@dataclass(frozen=True)
class Torch:
    """What torch says of itself: `cuda` of its build (None: a CPU build), whether a card works, and why not."""

    version: str
    cuda: tuple[int, int] | None
    works: bool
    complaint: str = ""


def check_gpu(patient: Patient) -> Iterator[Finding]:
    """Driver, build and cards."""
    text = ask()
    driver = None if text is None else read_driver(text)
    torch = torch_state()
    yield judge_driver(driver, torch, patient.device)
    if driver is None or driver.problem:
        return
    cards = read_cards(ask(f"--query-gpu={CARD_FIELDS}", CSV) or "")
    holders = read_holders(ask(f"--query-compute-apps={HOLDER_FIELDS}", CSV) or "")
    for card in cards:
        yield judge_card(card, [holder for holder in holders if holder.uuid == card.uuid])


def torch_state() -> Torch:
    """Import torch and ask it for a card; its warnings become the complaint."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        works = torch.cuda.is_available()
        complaint = " ".join(" ".join(str(warning.message).split()) for warning in said)
    numbers = re.match(r"(\d+)\.(\d+)", torch.version.cuda or "")
    built = (int(numbers[1]), int(numbers[2])) if numbers else None
    return Torch(torch.__version__, built, works, complaint[:300])


def judge_driver(driver: Driver | None, torch: Torch, wanted: str) -> Finding:
    """Whether torch will find a card, and what stands in the way."""
    if torch.works:
        version = f"driver {driver.version}, " if driver and driver.version else ""
        built = "" if torch.cuda is None else f"CUDA {torch.cuda[0]}.{torch.cuda[1]}, "
        return Finding("gpu", "ok", f"{version}{built}torch {torch.version}: they work together")
    without = wanted.split(":")[0] == "cuda"
    what, fix = _obstacle(driver, torch)
    if driver is None and not without:
        return Finding("gpu", "warning", f"{what}: the CPU works instead, in fp32, which is slow", fix)
    state: State = "error" if without else "warning"
    return Finding("gpu", state, what if without else f"{what}: the CPU works instead", fix)


def _obstacle(driver: Driver | None, torch: Torch) -> tuple[str, str | None]:
    if driver is None:
        return "no NVIDIA driver is installed (there is no nvidia-smi)", None
    if driver.problem:
        return driver.problem, driver.fix
    if torch.cuda is None:
        return f"there is a card, but this torch ({torch.version}) is a build for the CPU", OTHER_TORCH
    if driver.cuda and not driver_suits(driver.cuda, torch.cuda):
        needed = FIRST_DRIVER.get(torch.cuda[0])
        built, runs = (f"{major}.{minor}" for major, minor in (torch.cuda, driver.cuda))
        what = f"driver {driver.version} runs CUDA {runs}, but torch {torch.version} is built for CUDA {built}"
        newer = f"update the NVIDIA driver to {needed} or newer" if needed else "update the NVIDIA driver"
        return what, f"{newer}; or {OTHER_TORCH}"
    said = torch.complaint or "torch does not say why"
    return (
        f"driver {driver.version} works, but torch {torch.version} sees no card: {said}",
        "echo $CUDA_VISIBLE_DEVICES",
    )


def judge_card(card: Card, holders: list[Holder]) -> Finding:
    """What a card can do, and whether others have its memory."""
    size = "" if card.total_bytes is None else f", {card.total_bytes / GIB:.1f} GiB"
    capability = "" if card.capability is None else f", capability {card.capability[0]}.{card.capability[1]}"
    what = f"{card.name}{capability}{size}"
    name = f"card {card.uuid[:12]}"
    if card.capability and card.capability < OLDEST:
        old = f"{what}: older than the oldest supported (RTX 20)"
        return Finding(name, "warning", old, "--device cpu does without")
    if card.total_bytes and card.free_bytes is not None:
        what += f", {card.free_bytes / GIB:.1f} GiB free"
        if card.total_bytes - card.free_bytes > 0.1 * card.total_bytes:
            return Finding(name, "warning", f"{what}; in use by {_named(holders)}", _close(holders))
    if card.capability and card.capability < BF16:
        return Finding(name, "warning", f"{what}: no bf16", "--precision fp16 works instead")
    return Finding(name, "ok", what)


def _named(holders: list[Holder]) -> str:
    """Programs with their numbers. The driver lists no desktop, and in a container no process outside of it."""
    names = [
        f"{holder.program} (process {holder.pid}"
        + (")" if holder.used_bytes is None else f", {holder.used_bytes / GIB:.1f} GiB)")
        for holder in holders
    ]
    return ", ".join(names) or "processes that the driver does not list (a desktop, or another container)"


def _close(holders: list[Holder]) -> str:
    return f"kill {' '.join(holder.pid for holder in holders)}   # if you can spare them" if holders else "nvidia-smi"
