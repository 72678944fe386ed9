"""Resident, from the host, from disk, any mix, any ring, resumed: the same latents, bit for bit."""

from __future__ import annotations

import random
import time
from itertools import product

import pytest
import torch

from hvlite.errors import CheckpointError, ConfigError
from hvlite.lite.checkpoint import load_transformer
from hvlite.lite.streaming.block_files import BlockFile
from hvlite.lite.streaming.copy_queue import CpuDevice
from hvlite.lite.streaming.streamed_blocks import StreamOptions
from hvlite.lite.streaming.streamed_transformer import open_streamed_transformer
from hvlite.lite.streaming.tiers import TierCounts
from hvlite.lite.streaming.transformer_blocks import LoadedTransformer, ResidentBlocks
from hvlite.quantize.convert import QuantizeOptions, run_quantize

CPU = torch.device("cpu")
BLOCKS = 8
MIXES = [(8, 0, 0), (0, 8, 0), (0, 0, 8), (4, 4, 0), (4, 0, 4), (0, 4, 4), (3, 2, 3), (1, 1, 6), (6, 1, 1)]
PINNING = {"no pinned memory": None, "all pinned": 1 << 30, "a third pinned": 60_000}


class GrantingLock:
    """Page-locks whatever it is asked to, and counts."""

    def __init__(self) -> None:
        self.locked: dict[int, int] = {}

    def register(self, address: int, nbytes: int) -> str | None:
        self.locked[address] = nbytes
        return None

    def unregister(self, address: int) -> None:
        del self.locked[address]


class PoisoningDevice(CpuDevice):
    """A CPU that fills a slot with NaN the moment it is released."""

    def __init__(self, page_lock: GrantingLock | None = None) -> None:
        self.page_lock = page_lock

    def release(self, flat):
        flat.fill_(0xFF)
        return super().release(flat)


def open_small(root, mix, *, ring=2, slots=2, pinned=None) -> LoadedTransformer:
    lock = None if pinned is None else GrantingLock()
    options = StreamOptions(slots=slots, ring=ring, pinned_limit_bytes=pinned or 0)
    device = PoisoningDevice(lock)
    return open_streamed_transformer(root, CPU, torch.float32, tiers=TierCounts(*mix), options=options, queue=device)


@pytest.fixture(autouse=True)
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads take a random moment, so that the thread is sometimes ahead of the computation and sometimes behind."""
    rng, fill = random.Random(3), BlockFile.fill

    def fill_late(self: BlockFile, target: torch.Tensor) -> None:
        time.sleep(rng.choice([0, 0, 0, 0.002]))
        fill(self, target)

    monkeypatch.setattr(BlockFile, "fill", fill_late)


@pytest.fixture(scope="module")
def resident(folder, latents_of) -> dict[str, list[torch.Tensor]]:
    """The latents after each step with all blocks on the device, by scheme."""
    latents = {}
    for scheme in ("fp8", "int8", "bf16"):
        transformer = open_small(folder(scheme), (BLOCKS, 0, 0))
        latents[scheme] = latents_of(transformer)
        transformer.close()
    return latents


@pytest.mark.parametrize("pinned", PINNING.values(), ids=PINNING)
@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_every_tier_and_ring(folder, latents_of, resident, mix, pinned, record_property):
    """With `test_resumed`, 9 mixes x 3 ways of pinning x 4 rings and more: over 120 runs, one result."""
    for ring, slots in zip((1, 2, 3, 4), (2, 4, 2, 3), strict=True):
        transformer = open_small(folder("fp8"), mix, ring=ring, slots=slots, pinned=pinned)
        assert transformer.blocks.tiers == TierCounts(*mix)
        same(latents_of(transformer), resident["fp8"])
        transformer.close()
        record_property("same_bits", 1)


@pytest.mark.parametrize(("scheme", "mix"), list(product(("int8", "bf16"), MIXES[1:4])), ids=str)
def test_every_scheme(folder, latents_of, resident, scheme, mix, record_property):
    transformer = open_small(folder(scheme), mix)
    same(latents_of(transformer), resident[scheme])
    transformer.close()
    record_property("same_bits", 1)


@pytest.mark.parametrize(("mix", "step"), list(product(MIXES[1:], (1, 2))), ids=str)
def test_resumed(folder, latents_of, resident, mix, step, record_property):
    """Going on after a step, in another tier than the steps before, ends with the same bits."""
    transformer = open_small(folder("fp8"), mix)
    same(latents_of(transformer, (step, resident["fp8"][step - 1])), resident["fp8"][step:])
    transformer.close()
    record_property("same_bits", 1)


def test_bf16_is_the_source_itself(folder, source, latents_of, resident):
    """Nothing is rounded on the way into the folder, nor by streaming."""
    model = load_transformer(source, config={"rope_dim_list": [4, 6, 6]})
    same(latents_of(LoadedTransformer(model, ResidentBlocks(model))), resident["bf16"])


def test_two_prompts_share_the_blocks(folder, latents_of, resident):
    """Classifier-free guidance runs two predictions a step: passes follow each other, in whatever order."""
    transformer = open_small(folder("fp8"), (2, 3, 3))
    for _ in range(2):
        same(latents_of(transformer), resident["fp8"])
    transformer.close()


@pytest.mark.parametrize("broken_at", range(BLOCKS))
def test_a_pass_may_be_given_up_anywhere(folder, latents_of, resident, broken_at):
    """As after running out of memory in a block: the step is done again."""
    transformer = open_small(folder("fp8"), (2, 3, 3))
    blocks = transformer.blocks.each()
    for _ in range(broken_at + 1):
        next(blocks)
    same(latents_of(transformer), resident["fp8"])
    with pytest.raises(RuntimeError, match="another pass"):
        next(blocks)
    same(latents_of(transformer), resident["fp8"])
    transformer.close()


def test_a_block_is_poisoned_once_the_next_is_asked_for(folder):
    transformer = open_small(folder("fp8"), (0, 0, BLOCKS))
    blocks = transformer.blocks.each()
    first = next(blocks)
    scale = first.img_attn_qkv.weight_scale
    assert torch.isfinite(scale).all()
    held = scale.clone()
    next(blocks)
    assert not torch.equal(scale, held)
    transformer.close()


def test_the_bits_are_those_of_the_step_before_too(resident):
    """The comparison above can fail: other weights give other latents."""
    assert not torch.equal(resident["fp8"][-1], resident["int8"][-1])
    assert all(torch.isfinite(each).all() for latents in resident.values() for each in latents)


def test_counts_must_be_those_of_the_model(folder):
    with pytest.raises(ConfigError, match="tiers for 9 blocks"):
        open_small(folder("fp8"), (9, 0, 0))


def test_schemes_that_cannot_be_run_are_refused(source, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[transformer]\n"double_blocks.1.img_mlp.fc1" = "int4"\n')
    config = {"rope_dim_list": [4, 6, 6]}
    run_quantize(
        QuantizeOptions(
            source, tmp_path / "model", recipe=recipe, parts=("transformer",), model_config=config, workers=1
        )
    )
    with pytest.raises(CheckpointError, match=r"double_blocks\.1\.img_mlp\.fc1\.weight is stored as int4"):
        open_small(tmp_path / "model", (0, 0, BLOCKS))


def same(latents: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(latents) == len(expected)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(latents, expected, strict=True))
