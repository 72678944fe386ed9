"""Opens the transformer of an hvlite folder: what is outside of the blocks is loaded, the blocks go to their tiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import ConfigError
from ...quantize.format import HvliteTransformer
from ...quantize.source import ModelFiles, check_finite, open_transformer
from ..arithmetic import choose_arithmetic, kernel_capability
from ..events import Listener, ignore
from ..models.transformer import HunyuanVideoTransformer
from .block_files import open_block_files
from .copy_queue import CopyDevice, copy_device
from .streamed_blocks import StreamedBlocks, StreamOptions
from .tiers import Tier, TierCounts, spread_tiers
from .transformer_blocks import LoadedTransformer


def open_streamed_transformer(
    model: ModelFiles | Path,
    device: torch.device,
    dtype: torch.dtype,
    *,
    config: Mapping[str, Any] | None = None,
    tier: Tier = "resident",
    tiers: TierCounts | None = None,
    options: StreamOptions | None = None,
    on_event: Listener = ignore,
    queue: CopyDevice | None = None,
) -> LoadedTransformer:
    """The transformer of the hvlite folder `model`, computing in `dtype`: blocks in one tier, or mixed as `tiers` say.

    `config`: official field names, completing what the folder does not say.
    `queue` is the device's queues of copies; another one may be given for tests. Raises CheckpointError.
    """
    open_source = partial(_open_hvlite, model, config)
    with open_source() as source:
        files = open_block_files(source)
        outer = load_outer(source, device, dtype)
    counts = tiers or TierCounts.all_in(tier, len(files))
    if counts.total != len(files):
        raise ConfigError(f"tiers for {counts.total} blocks; the transformer has {len(files)}")
    blocks = StreamedBlocks(
        open_source,
        outer.config,
        files,
        spread_tiers(counts),
        queue or copy_device(device),
        options or StreamOptions(arithmetic=choose_arithmetic("auto", kernel_capability(device))),
        on_event,
    )
    return LoadedTransformer(outer, blocks)


def _open_hvlite(model: ModelFiles | Path, config: Mapping[str, Any] | None) -> HvliteTransformer:
    source = open_transformer(model, config=config)
    if isinstance(source, HvliteTransformer):
        return source
    source.close()
    raise ConfigError(
        f"{source.paths[0]} cannot be streamed: its blocks are not files of their own",
        hint="convert it with hvlite quantize",
    )


def load_outer(source: HvliteTransformer, device: torch.device, dtype: torch.dtype) -> HunyuanVideoTransformer:
    """The embedders, the refiner and the final layer: a transformer without blocks, its config that of the whole."""
    with torch.device("meta"):
        model = HunyuanVideoTransformer(replace(source.config, mm_double_blocks_depth=0, mm_single_blocks_depth=0))
    for name, _ in list(model.named_parameters()):
        tensor = source.read_dequantized(name, dtype)
        check_finite(tensor, name, source.path_of(name))
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(tensor.to(device), requires_grad=False))
    model.config = source.config
    return model.eval()
