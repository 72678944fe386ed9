"""What may stand in the pickle of a `.pt` file besides plain values: tensors, as records of where their elements lie.

Names are compared with an allow-list and kept as text; nothing is imported or called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .tensor_file import TORCH_NAMES

# storage classes and their element types; torch has no classes for the newer types, which come with UntypedStorage
STORAGE_DTYPES = {
    "FloatStorage": "F32",
    "DoubleStorage": "F64",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "UntypedStorage": None,
}
DTYPES_BY_TORCH_NAME = {name: dtype for dtype, name in TORCH_NAMES.items()}


class PickleError(ValueError):
    """What is wrong with a pickle. The reader adds the file's name."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name the pickle refers to. A record, never the thing itself."""

    name: str


@dataclass(frozen=True, slots=True)
class StorageRef:
    """Elements on disk: entry `data/<key>`, `numel` elements of `dtype` (None.

    bytes, the tensor says what they are).
    """

    dtype: str | None
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor as saved: a view into a storage; offset and strides in elements."""

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


ALLOWED = frozenset(
    {"collections.OrderedDict", "torch.Size", "torch.storage.UntypedStorage"}
    | {"torch.Tensor", "torch.nn.parameter.Parameter", "torch._tensor._rebuild_from_type_v2"}
    | {f"torch._utils._rebuild_{what}" for what in ("tensor_v2", "tensor_v3", "parameter", "parameter_with_state")}
    | {f"torch.{name}" for name in (*STORAGE_DTYPES, *DTYPES_BY_TORCH_NAME)}
)


def refer(module: object, name: object) -> Global:
    """The record of a name on the allow-list."""
    full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "something without a name"
    if full not in ALLOWED:
        raise PickleError(
            f"it refers to {full!r:.200}; a checkpoint needs tensors only, and nothing else is ever loaded"
        )
    return Global(full)


def storage_of(identifier: object) -> StorageRef:
    """The storage a persistent id names: ("storage", class, key, location, number of elements)."""
    match identifier:
        case ("storage", Global(name=name), str(key), str(), int(numel)) if name.rsplit(".", 1)[1] in STORAGE_DTYPES:
            return StorageRef(STORAGE_DTYPES[name.rsplit(".", 1)[1]], key, numel)
    raise PickleError("it refers to data in an unknown way")


def apply(function: object, arguments: object) -> Any:
    """What a call would have made, as a record. torch's own functions are known by name and are not run."""
    match function, arguments:
        case Global(name="collections.OrderedDict"), ():
            return {}
        case Global(name="torch.Size"), (tuple() as sizes,):
            return sizes
        case Global(name="torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state"), (
            TensorRef() as tensor,
            *_,
        ):
            return tensor
        case Global(name="torch._tensor._rebuild_from_type_v2"), (
            Global() as rebuild,
            Global(),
            tuple() as inner,
            *_,
        ) if (
            rebuild.name.startswith("torch._utils.")  # so that it cannot nest
        ):
            return apply(rebuild, inner)
        case Global(name="torch._utils._rebuild_tensor_v2"), (StorageRef() as storage, offset, shape, strides, *_):
            return _tensor(storage, storage.dtype, offset, shape, strides)
        case Global(name="torch._utils._rebuild_tensor_v3"), (
            StorageRef() as storage,
            offset,
            shape,
            strides,
            _,
            _,
            Global() as dtype,
            *_,
        ):
            return _tensor(storage, DTYPES_BY_TORCH_NAME.get(dtype.name.removeprefix("torch.")), offset, shape, strides)
        case _:
            raise PickleError(f"it calls {getattr(function, 'name', 'a value')!r:.200} in a way no checkpoint does")


def _tensor(storage: StorageRef, dtype: str | None, offset: Any, shape: Any, strides: Any) -> TensorRef:
    if dtype is None or type(offset) is not int or not _is_ints(shape) or not _is_ints(strides):
        raise PickleError("it describes a tensor in an unknown way")
    return TensorRef(storage, dtype, offset, shape, strides)


def _is_ints(value: object) -> bool:
    return isinstance(value, tuple) and all(type(item) is int for item in value)
