"""A transformer with random weights of the real shapes in the quantized layout, made block by block: no download.

Two files, of one double and one single block, stand for all blocks: 0.34 GB on disk for the 13B model instead of 9.
They are read, copied and run as an hvlite folder's are; a block's values do not change how long any of it takes. The
modulation is random too, as its 6.8 GB of weights act once a run and outside of what is timed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from ..lite.arithmetic import choose_arithmetic, kernel_capability
from ..lite.events import Listener, ignore
from ..lite.models.blocks import Modulation
from ..lite.models.transformer import HunyuanVideoTransformer
from ..lite.streaming.block_files import BlockFile
from ..lite.streaming.copy_queue import copy_device
from ..lite.streaming.streamed_blocks import StreamedBlocks, StreamOptions
from ..lite.streaming.tiers import TierCounts, spread_tiers
from ..lite.streaming.transformer_blocks import BlockModulation, LoadedTransformer
from ..lite.text import PromptEmbeds
from ..quantize.architecture import TransformerConfig
from ..quantize.readers.shapes import expected_transformer_shapes
from ..quantize.readers.tensor_file import TORCH_NAMES, TensorInfo
from ..quantize.recipe import builtin_recipes
from ..quantize.scheme import Scheme
from ..quantize.writer import file_order, write_safetensors
from .make_full_size import RandomWeights

KINDS = ("double_blocks", "single_blocks")
MODULATION = ("img_mod", "txt_mod", "modulation")
CODE_SPREAD = {"fp8": 100.0, "int8": 30.0}  # of the codes: far from their largest, as most of a trained layer's are


@dataclass(frozen=True)
class BlockStore:
    """The two files, and the blocks they stand for, in the model's order."""

    config: TransformerConfig
    files: tuple[BlockFile, ...]

    @property
    def nbytes(self) -> int:
        """Of all blocks: what one step streams where none is resident."""
        return sum(file.nbytes for file in self.files)


def make_block_store(folder: Path, config: TransformerConfig, scheme: str = "fp8") -> BlockStore:
    """Write a random block of each kind into `folder`, stored as `hvlite quantize --transformer SCHEME` stores it."""
    weights = RandomWeights()
    depths = (config.mm_double_blocks_depth, config.mm_single_blocks_depth)
    files: list[BlockFile] = []
    for kind, depth in zip(KINDS, depths, strict=True):
        if depth:
            first = _write_block(folder, f"{kind}.0", config, scheme, weights)
            files += [replace(first, name=f"{kind}.{index}") for index in range(depth)]
    return BlockStore(config, tuple(files))


def _write_block(folder: Path, name: str, config: TransformerConfig, scheme: str, weights: RandomWeights) -> BlockFile:
    schemes = _block_schemes(name, config, scheme)
    shapes = expected_transformer_shapes(config)
    layout: dict[str, TensorInfo] = {}
    for key, chosen in schemes.items():
        layout |= chosen.tensors(f"{name}.{key}", shapes[f"{name}.{key}"])
    ordered = {key: layout[key] for key in file_order(layout)}
    path = folder / f"{name}.{scheme}.safetensors"
    write_safetensors(path, ordered, ((key, _tensor(key, info, layout, weights)) for key, info in ordered.items()))
    return BlockFile.open(path, name, schemes)


def _block_schemes(name: str, config: TransformerConfig, scheme: str) -> dict[str, Scheme]:
    recipe = builtin_recipes("transformer")[scheme]
    return {
        key.removeprefix(f"{name}."): recipe.choose(key).scheme
        for key in expected_transformer_shapes(config)
        if key.startswith(f"{name}.") and key.split(".")[2] not in MODULATION
    }


def _tensor(key: str, info: TensorInfo, layout: dict[str, TensorInfo], weights: RandomWeights) -> Tensor:
    """Codes of some spread with the scale that gives a weight of 1 / sqrt(fan-in); the rest as RandomWeights has it."""
    spread = {"F8_E4M3": CODE_SPREAD["fp8"], "I8": CODE_SPREAD["int8"]}
    dtype = getattr(torch, TORCH_NAMES[info.dtype])
    if info.dtype in spread:
        codes = weights.make(info.shape, torch.float32) * (spread[info.dtype] * math.sqrt(info.shape[-1]) / 5)
        return codes.clamp_(-127, 127).to(dtype)
    if key.endswith("_scale"):
        codes_info = layout[key.removesuffix("_scale")]
        return torch.full(info.shape, 5 / (spread[codes_info.dtype] * math.sqrt(codes_info.shape[-1])), dtype=dtype)
    return weights.make(info.shape, dtype) if not key.endswith("bias") else torch.zeros(info.shape, dtype=dtype)


class RandomBlocks(StreamedBlocks):
    """Streamed blocks whose modulation is random: it has no weights here."""

    def modulate(self, vec: Tensor) -> Iterator[BlockModulation]:
        """See `Blocks.modulate`. Shift and scale near 0, gates near 0.1: the residual stream stays finite."""
        generator = torch.Generator().manual_seed(0)

        def branch() -> Modulation:
            shift, scale, gate = (0.02 * torch.randn(vec.shape, generator=generator) for _ in range(3))
            return Modulation(*(each.to(vec) for each in (shift, scale, gate + 0.1)))

        for _ in range(self._config.mm_double_blocks_depth):
            yield (branch(), branch()), (branch(), branch())
        for _ in range(self._config.mm_single_blocks_depth):
            yield branch()


def open_random_transformer(
    store: BlockStore,
    tiers: TierCounts,
    device: torch.device,
    dtype: torch.dtype,
    options: StreamOptions | None = None,
    on_event: Listener = ignore,
) -> LoadedTransformer:
    """The transformer over the blocks of `store`, each in its tier, multiplied as `auto` does here; close it."""
    chosen = StreamOptions() if options is None else options
    blocks = RandomBlocks(
        _no_source,
        store.config,
        store.files,
        spread_tiers(tiers),
        copy_device(device),
        replace(chosen, arithmetic=choose_arithmetic("auto", kernel_capability(device))),
        on_event,
    )
    return LoadedTransformer(make_outer(store.config, device, dtype), blocks)


def pinned_bytes(transformer: LoadedTransformer) -> int:
    """What its streaming has page-locked."""
    return transformer.blocks.pinned_bytes if isinstance(transformer.blocks, StreamedBlocks) else 0


def make_outer(config: TransformerConfig, device: torch.device, dtype: torch.dtype) -> HunyuanVideoTransformer:
    """The embedders, the refiner and the final layer, random; its config is that of the whole."""
    with torch.device("meta"):
        model = HunyuanVideoTransformer(replace(config, mm_double_blocks_depth=0, mm_single_blocks_depth=0))
    weights = RandomWeights(1)
    for name, parameter in list(model.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        value = weights.make(tuple(parameter.shape), dtype).to(device)
        setattr(model.get_submodule(owner), attribute, torch.nn.Parameter(value, requires_grad=False))
    model.config = config
    return model.eval()


def random_embeds(config: TransformerConfig, tokens: int) -> PromptEmbeds:
    """A prompt of `tokens` tokens that says nothing."""
    generator = torch.Generator().manual_seed(2)
    return PromptEmbeds(
        prompt_embeds=torch.randn(1, tokens, config.text_states_dim, generator=generator),
        prompt_mask=torch.ones(1, tokens, dtype=torch.int64),
        pooled_prompt_embeds=torch.randn(1, config.text_states_dim_2, generator=generator),
    )


def _no_source() -> NoReturn:
    raise RuntimeError("random blocks have no source")
