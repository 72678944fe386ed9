"""Training on a CPU with one single-threaded process a core: gradients are averaged over gloo.

Two processes beat two threads here: on a shared machine OpenMP's spin barriers made a step 10 to 20 times slower.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn


def launch(worker: Callable[..., None], ranks: int, *args: object) -> None:
    """Run `worker(rank, *args)` in `ranks` processes that can average gradients."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_start, args=(worker, ranks, port, args), nprocs=ranks)  # type: ignore[attr-defined, no-untyped-call]


def _start(rank: int, worker: Callable[..., None], ranks: int, port: int, args: Sequence[object]) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    worker(rank, *args)
    dist.destroy_process_group()


def average(params: Sequence[nn.Parameter], *values: float) -> list[float]:
    """Average all gradients in place over the ranks, and the extra values (a loss, a clock) with them."""
    owners = [p for p in params if p.grad is not None]
    grads = [p.grad for p in owners if p.grad is not None]
    flat = torch.cat([*(g.reshape(-1) for g in grads), torch.tensor(values)])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    offset = 0
    for grad in grads:
        grad.copy_(flat[offset : offset + grad.numel()].view_as(grad))
        offset += grad.numel()
    return [float(v) for v in flat[offset:]]
