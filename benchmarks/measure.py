"""How much memory a piece of PyTorch code holds, counted tensor by tensor; with fake tensors at any size.

with FakeTensorMode(), AllocationTracker() as memory:
    ...
memory.peak_bytes
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AllocationTracker(TorchDispatchMode):
    """Counts the live storages of the tensors that operators return while it is on.

    `live_bytes` now, `peak_bytes` at most, `peak_operator` what was running then. What an operator takes and frees
    inside itself (a workspace) is not seen. `hold` counts tensors that were there before, such as weights.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        self.peak_operator = ""
        self._sizes: dict[int, int] = {}

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count these tensors from now on."""
        for tensor in tensors:
            self._see(tensor, "hold")

    def restart(self) -> None:
        """Forget the peak so far: it starts again at what is live."""
        self.peak_bytes, self.peak_operator = self.live_bytes, ""

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf, str(function))
        return result

    def _see(self, tensor: Tensor, operator: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._sizes:
            return
        self._sizes[key] = size
        weakref.finalize(storage, self._forget, key)
        self.live_bytes += size
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes, self.peak_operator = self.live_bytes, operator

    def _forget(self, key: int) -> None:
        self.live_bytes -= self._sizes.pop(key)
