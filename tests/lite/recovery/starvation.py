"""Memory that runs out on purpose: at the n-th allocation, or whenever more than a cap would be alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# As they are raised: by the CUDA allocator, by the CPU's, by Python, by cuBLAS (also for its own start), by a
# convolution of which no engine's workspace fits.
FAILURES: dict[str, Callable[[], Exception]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation."),
    "cpu": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
    "python": MemoryError,
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "handle": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    "cudnn": lambda: RuntimeError("GET was unable to find an engine to execute this computation"),
}


class Starved(TorchDispatchMode):
    """Counts the operators that allocate, and lets those in `fail_at` (from 0) fail.

    The operator runs, so that whatever it overwrites is overwritten, and its result is thrown away.
    """

    def __init__(self, fail_at: frozenset[int] = frozenset(), failure: str = "cuda") -> None:
        super().__init__()
        self.fail_at, self.failure = fail_at, FAILURES[failure]
        self.allocations = 0
        self.failed = 0
        self.seen: list[weakref.ref[Any]] = []

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        before = storages((args, kwargs))
        after = storages(result)
        if after.keys() <= before.keys():
            return result
        number = self.allocations
        self.allocations += 1
        if number in self.fail_at:
            self.failed += 1
            raise self.failure()
        self.seen += [weakref.ref(storage) for key, storage in after.items() if key not in before]
        return result

    def alive_bytes(self) -> int:
        """Of all that was allocated since it was switched on."""
        return sum(storage.nbytes() for ref in self.seen if (storage := ref()) is not None)


class StarvedOperator(TorchDispatchMode):
    """Lets the next operator whose name begins with `operator` fail once it is `due`."""

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator, self.due, self.failed = operator, False, 0

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if self.due and str(function).startswith(self.operator):
            self.due, self.failed = False, self.failed + 1
            raise FAILURES["cuda"]()
        return function(*args, **(kwargs or {}))


class Capped(TorchDispatchMode):
    """Raises CUDA's error as soon as more than `cap_bytes` allocated since it was switched on are alive."""

    def __init__(self, cap_bytes: int) -> None:
        super().__init__()
        self.cap_bytes = cap_bytes
        self.live_bytes = self.peak_bytes = self.failed = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        new = {key: each for key, each in storages(result).items() if key not in storages((args, kwargs))}
        for key, storage in new.items():
            if key not in self._known:
                self._known.add(key)
                self.live_bytes += storage.nbytes()
                weakref.finalize(storage, self._forget, key, storage.nbytes())
        if self.live_bytes > self.cap_bytes:
            self.failed += 1
            raise FAILURES["cuda"]()
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return result

    def _forget(self, key: int, nbytes: int) -> None:
        self._known.discard(key)
        self.live_bytes -= nbytes


def storages(tree: Any) -> dict[int, Any]:
    """Of all tensors in it; one on the meta device takes no memory."""
    return {each._cdata: each for leaf in _tensors(tree) if not leaf.is_meta for each in [leaf.untyped_storage()]}


def _tensors(tree: Any) -> Iterator[Tensor]:
    """Those in an operator's arguments or results, which are tensors, lists and dicts; torch's own walk is slow."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _tensors(item)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))
