"""The plain tensors a weight is stored as -> its values. What makes them, `encode`, the runtime never sees."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.ops import dequantize_rows
from .methods import from_groups, to_groups
from .packing import Parts, decode_nf4, unpack_int4
from .scheme import Scheme


def decode(scheme: Scheme, parts: Parts, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """The values of a stored weight in `dtype`. `parts`: its tensors by what follows its name ("", "_scale", ...)."""
    codes = parts[""]
    match scheme.name:
        case "fp8" | "int8":
            return dequantize_rows(codes, parts["_scale"], dtype)
        case "int4":
            groups = to_groups(unpack_int4(codes, shape[1]).to(torch.float32)).mul_(parts["_scale"].reshape(-1, 1))
            return from_groups(groups, shape[1]).to(dtype)
        case "nf4":
            return decode_nf4(parts, dtype)
    return codes.to(dtype)
