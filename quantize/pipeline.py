"""Weights are read and encoded ahead by threads while the files are written, one at a time and in order.

torch, pread and sha256 let go of the interpreter, so two cores are kept busy by plain threads. What is in memory is
bounded: the file being written, and `AHEAD_BYTES` of source weights (or one weight, where it is larger).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path

import torch
from torch import Tensor

from .encode import Encoded, encode, take_over
from .lora import Lora
from .plan import FilePlan, Sources, Weight
from .readers.tensor_file import FP8_DTYPES
from .report import Layer, layer_entry
from .writer import Written, file_order, tensor_info, write_safetensors

AHEAD_BYTES = 320 << 20

Make = Callable[[Weight], Encoded]


def make_weight(weight: Weight, sources: Sources, loras: tuple[Lora, ...]) -> Encoded:
    """Read and encode one weight. Raises CheckpointError."""
    source, name, choice = sources.of(weight.part), weight.name, weight.choice
    path = source.path_of(name)
    changes = [lora for lora in loras if weight.part == "transformer" and lora.touches(name)]
    stored = source.info(name).dtype
    if choice.scheme.dtype == stored == "F8_E4M3" and not changes:
        scale = source.read_scale(name)
        return take_over(weight.key, source.read(name), torch.ones(1) if scale is None else scale, choice, path)
    if stored in FP8_DTYPES or changes:
        value = source.read_dequantized(name)
        for lora in changes:
            lora.add_to(value, name)
    else:
        value = source.read(name)
    if choice.scheme.name == "nf4":
        value = value.to(torch.float16)
    return encode(weight.key, value, choice, path)


def encode_ahead(weights: Iterable[Weight], make: Make, pool: Executor) -> Iterator[Encoded]:
    """`make` of every weight, in order, some of them at work while the caller handles the one before."""
    pending: deque[tuple[int, Future[Encoded]]] = deque()
    waiting = 0
    for weight in weights:
        while pending and waiting + weight.source_bytes > AHEAD_BYTES:
            nbytes, future = pending.popleft()
            yield future.result()
            del future
            waiting -= nbytes
        pending.append((weight.source_bytes, pool.submit(make, weight)))
        waiting += weight.source_bytes
    while pending:
        yield pending.popleft()[1].result()


def write_weights(
    path: Path, plan: FilePlan, encoded: Iterator[Encoded], on_weight: Callable[[Weight], None]
) -> tuple[Written, list[Layer]]:
    """Write one file of weights from `encoded`, of which exactly its own are taken."""
    layers: list[Layer] = []

    def taken() -> Iterator[Encoded]:
        for weight in plan.weights:
            item = next(encoded)
            layers.append(layer_entry(weight, item))
            on_weight(weight)
            yield item

    if plan.streamed:
        stream = (pair for item in taken() for pair in item.tensors.items())
        return write_safetensors(path, plan.layout(), stream), layers
    tensors: dict[str, Tensor] = {key: tensor for item in taken() for key, tensor in item.tensors.items()}
    infos = {key: tensor_info(tensor) for key, tensor in tensors.items()}
    layout = {key: infos[key] for key in file_order(infos)}
    return write_safetensors(path, layout, ((key, tensors[key]) for key in layout)), layers
