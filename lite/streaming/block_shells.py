"""Blocks without weights of their own: a shell's tensors are views into a flat buffer that somebody else fills."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...quantize.architecture import TransformerConfig
from ..arithmetic import LinearArithmetic
from ..models.blocks import DoubleStreamBlock, Modulate, SingleStreamBlock
from ..models.linear import QuantLinear, StoredLinear
from .block_files import BlockLayout

BLOCK_CLASSES: dict[str, type[DoubleStreamBlock] | type[SingleStreamBlock]] = {
    "double_blocks": DoubleStreamBlock,
    "single_blocks": SingleStreamBlock,
}


def make_shell(config: TransformerConfig, layout: BlockLayout, flat: Tensor, arithmetic: LinearArithmetic) -> nn.Module:
    """A block whose weights are what `flat` holds at the moment it runs. Its modulation is computed elsewhere."""
    with torch.device("meta"):
        block = BLOCK_CLASSES[layout.kind](config)
    for name in [name for name, module in block.named_modules() if isinstance(module, Modulate)]:
        block.set_submodule(name, nn.Identity())
    views = layout.views(flat)
    for name in [name for name, module in block.named_modules() if isinstance(module, nn.Linear)]:
        block.set_submodule(name, _linear(views, name, arithmetic))
    for name, _ in list(block.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        setattr(block.get_submodule(owner), attribute, _fixed(views[name]))
    return block.eval()


def _linear(views: Mapping[str, Tensor], name: str, arithmetic: LinearArithmetic) -> nn.Module:
    weight, scale = views[f"{name}.weight"], views.get(f"{name}.weight_scale")
    if scale is not None:
        return QuantLinear(weight, scale, _fixed(views[f"{name}.bias"]), arithmetic.of(weight.dtype))
    rows, columns = weight.shape
    return StoredLinear(columns, rows, device="meta")


def _fixed(view: Tensor) -> nn.Parameter:
    return nn.Parameter(view, requires_grad=False)
