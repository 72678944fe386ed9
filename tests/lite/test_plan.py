"""The rules of the plan: caps hold, more room never makes it slower, and what does not fit names what does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvlite.errors import ConfigError
from hvlite.lite.card import OFFICIAL_SIZES
from hvlite.lite.plan import plan_memory
from hvlite.lite.planning.attention import kv_bytes
from hvlite.lite.planning.gpus import GPUS, find_gpu
from hvlite.lite.planning.limits import parse_bytes
from hvlite.lite.planning.model import ModelSizes, plan_model
from hvlite.lite.planning.types import GIB, Machine, MemoryPlan, Work
from hvlite.lite.streaming.tiers import TierCounts
from hvlite.quantize.presets import PRESETS

BIG = Work(height=720, width=1280, frames=129, steps=50)


@pytest.fixture(scope="module", params=sorted(PRESETS))
def model(request) -> ModelSizes:
    return plan_model(request.param)


@pytest.fixture(scope="module")
def fp8() -> ModelSizes:
    return plan_model("hunyuan-video-fp8")


def planned(model: ModelSizes, vram_gib: float, work: Work = BIG, gpu: str | None = None, **limits: int) -> MemoryPlan:
    card = find_gpu(gpu) if gpu else None
    return plan_memory(model, work, Machine(vram_bytes=int(vram_gib * GIB), gpu=card, **limits))


def holds(plan: MemoryPlan) -> bool:
    """Every stage under both limits, the reserve included."""
    machine = plan.machine
    on_card = all(stage.vram_bytes + plan.reserve_bytes <= machine.vram_bytes for stage in plan.stages)
    return on_card and all(stage.ram_bytes <= machine.ram_bytes for stage in plan.stages)


@pytest.mark.parametrize("vram_gib", [3, 4, 5, 6, 8, 10, 11, 12, 16, 24, 32, 80])
def test_limits_hold(model, vram_gib):
    plan = planned(model, vram_gib)
    assert plan.fits == holds(plan)
    assert plan.blocks.total == 60
    assert plan.pinned_bytes <= plan.machine.pinned_bytes


def test_what_is_promised(fp8):
    """24, 16, 12 and 8 GB run 720p with 129 frames under 16 GiB of host memory and 2 GiB of it page-locked."""
    for vram_gib in (24, 16, 12, 8, 6):
        plan = planned(fp8, vram_gib)
        assert plan.fits
        assert plan.peak_ram_bytes <= 16 * GIB
        assert plan.pinned_bytes <= 2 * GIB
        assert plan.official_tile
    assert planned(fp8, 16).blocks == TierCounts(resident=60)


@settings(max_examples=150, deadline=None)
@given(
    size=st.sampled_from([size for by_aspect in OFFICIAL_SIZES.values() for size in by_aspect.values()]),
    frames=st.integers(0, 40).map(lambda n: 4 * n + 1),
    vram_mib=st.integers(1024, 40960),
    ram_mib=st.integers(2048, 65536),
    guided=st.booleans(),
)
def test_any_machine(size, frames, vram_mib, ram_mib, guided):
    work = Work(height=size[0], width=size[1], frames=frames, steps=50, guided=guided)
    plan = planned(plan_model("hunyuan-video-fp8"), vram_mib / 1024, work, ram_bytes=ram_mib << 20)
    assert plan.fits == holds(plan)
    assert plan.fits or all(
        not setting.option.startswith("--frames") or setting.frames < frames for setting in plan.nearest
    )


@pytest.mark.parametrize("gpu", ["RTX 4090", "RTX 3060"])
def test_more_memory_is_never_slower(fp8, gpu):
    card = replace(find_gpu(gpu), memory_bytes=0)
    times = [
        plan_memory(fp8, BIG, Machine(vram_bytes=vram * GIB // 2, gpu=card)).seconds_per_step for vram in range(10, 40)
    ]
    known = [seconds for seconds in times if seconds is not None]
    assert len(known) == len(times)
    assert known == sorted(known, reverse=True)


def test_more_frames_need_more():
    model = plan_model("hunyuan-video-fp8")
    peaks = [planned(model, 80, replace(BIG, frames=frames)).peak_vram_bytes for frames in range(1, 201, 4)]
    assert peaks == sorted(peaks)


def with_caps(machine: Machine, option: str) -> Machine:
    """The machine with the limits that an option such as "--vram-limit 4.5GiB --ram-limit 8GiB" names."""
    words = option.split()
    fields = {"--vram-limit": "vram_bytes", "--ram-limit": "ram_bytes"}
    pairs = zip(words[::2], words[1::2], strict=False)
    return replace(machine, **{fields[name]: parse_bytes(name, amount) for name, amount in pairs if name in fields})


@pytest.mark.parametrize(("vram_gib", "ram_gib"), [(4, 16), (3, 16), (4, 8), (24, 3)])
def test_nearest_settings_fit_and_are_nearest(fp8, vram_gib, ram_gib):
    machine = Machine(vram_bytes=vram_gib * GIB, ram_bytes=ram_gib * GIB)
    plan = plan_memory(fp8, BIG, machine)
    assert not plan.fits
    for setting in plan.nearest:
        raised = with_caps(machine, setting.option)
        work = replace(BIG, height=setting.height, width=setting.width, frames=setting.frames)
        assert plan_memory(fp8, work, raised).fits
        if setting.option.startswith("--frames"):
            assert not plan_memory(fp8, replace(work, frames=setting.frames + 4), machine).fits
        if raised.vram_bytes > machine.vram_bytes:
            assert not plan_memory(fp8, work, replace(raised, vram_bytes=raised.vram_bytes - GIB // 2)).fits


def test_three_nearest_settings(fp8):
    options = [setting.option for setting in planned(fp8, 4).nearest]
    assert [option.split()[0] for option in options] == ["--frames", "--video-size", "--vram-limit"]


def test_a_forced_tier_is_kept(fp8):
    for tier in ("resident", "host", "disk"):
        plan = plan_memory(fp8, BIG, Machine(vram_bytes=24 * GIB), tier=tier)
        assert plan.blocks == TierCounts.all_in(tier, 60)
    assert not plan_memory(fp8, BIG, Machine(vram_bytes=8 * GIB), tier="resident").fits
    with pytest.raises(ConfigError, match="not known"):
        plan_memory(fp8, BIG, Machine(vram_bytes=24 * GIB), tier="ram")


def test_blocks_that_do_not_fit_in_host_memory_come_from_disk():
    bf16 = plan_model("hunyuan-video-bf16")
    plan = planned(bf16, 12, ram_bytes=8 * GIB)
    assert plan.blocks.disk > 0
    assert plan.peak_ram_bytes <= 8 * GIB
    assert planned(bf16, 12, ram_bytes=64 * GIB).blocks.disk == 0


def test_smaller_tiles_come_last(fp8):
    tiles = [planned(fp8, vram) for vram in (24, 8, 3)]
    assert [(plan.official_tile, plan.lean_decode) for plan in tiles[:2]] == [(True, False), (True, True)]
    assert not tiles[2].official_tile


def test_maps_that_a_card_cannot_count_are_not_decoded_whole(fp8):
    """544p, 33 frames untiled: 256 channels at full size are 4.4e9 elements; torch's kernels on a card count to 2**31.

    It would fit into an H200, and on a CPU it is no question.
    """
    untiled = Work(height=544, width=960, frames=33, steps=1, tiled=False)
    assert planned(fp8, 141, untiled).lean_decode
    assert not planned(fp8, 141, replace(untiled, frames=9)).lean_decode
    assert not planned(fp8, 0, untiled, ram_bytes=400 * GIB).lean_decode


def test_unknown_rates_give_no_times(fp8):
    plan = planned(fp8, 8)
    assert plan.seconds_per_step is None
    assert plan.seconds is None
    assert planned(fp8, 24, gpu="RTX 2080 Ti").seconds_per_step is None  # no attention rate is known for Turing
    assert (planned(fp8, 24, gpu="RTX 4090").seconds or 0) > 0


def test_on_a_cpu_everything_is_host_memory(fp8):
    plan = plan_memory(fp8, replace(BIG, frames=5), Machine(vram_bytes=0, ram_bytes=64 * GIB))
    assert plan.peak_vram_bytes == plan.reserve_bytes == plan.pinned_bytes == 0
    assert plan.peak_ram_bytes > 8 * GIB


def test_preset_weights_are_the_released_models(model):
    """12.5 billion weights in blocks, 3.4 of them modulation; to stream in 8 bits: 8.44 GiB and a few scales."""
    assert 9.05e9 < model.block_elements < 9.08e9
    assert 3.39e9 < model.modulation_elements < 3.41e9
    assert model.block_elements + model.modulation_elements + model.outer_elements == 12_821_012_544
    assert len(model.blocks) == 60
    per_weight = sum(model.blocks) / model.block_elements
    assert per_weight == pytest.approx(2 if model.name.endswith("bf16") else 1, rel=0.002)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("12GiB", 12 * GIB), ("8 GB", 8 * 10**9), ("11.5gib", 23 * GIB // 2), ("8000MiB", 8000 << 20), ("1TiB", 1 << 40)],
)
def test_amounts(text, nbytes):
    assert parse_bytes("--vram-limit", text) == nbytes


@pytest.mark.parametrize(
    "text", ["12", "", "GiB", "-4GiB", "12 apples", "0GiB", "1e9GiB", "nan GiB", "12GiB12", "0.0000001B"]
)
def test_what_is_no_amount(text):
    with pytest.raises(ConfigError, match="--vram-limit"):
        parse_bytes("--vram-limit", text)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("RTX 4070", "RTX 4070"),
        ("rtx4070", "RTX 4070"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER"),
        ("4090", "RTX 4090"),
        ("rtx 4060 ti 16 gb", "RTX 4060 Ti 16GB"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("H100", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell"),
    ],
)
def test_cards_by_name(name, found):
    assert find_gpu(name) is GPUS[found]


def test_every_card_is_found_by_its_own_name():
    assert all(find_gpu(name) is gpu for name, gpu in GPUS.items())
    assert all(
        gpu.memory_bytes >= 4 * GIB and gpu.bandwidth_bytes_per_s and gpu.link_bytes_per_s for gpu in GPUS.values()
    )


def test_an_unknown_card_names_near_ones():
    with pytest.raises(ConfigError) as raised:
        find_gpu("RTX 4071")
    assert "RTX 4070" in str(raised.value)


def test_planning_loads_no_torch():
    code = (
        "import sys; from hvlite.lite.planning.request import PlanOptions, make_plan;"
        "make_plan(PlanOptions(model='hunyuan-video-fp8', gpu='RTX 4070'));"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("attention", "saved"), [("int8-fp16", 1), ("int8-fp8", 2), ("int8-fp8-fp16", 2)])
def test_8_bit_k_and_v(fp8, attention, saved):
    """What they save is a byte of each element that is narrower, but for scales: under 3 % of what is left."""
    tokens, hidden = 118_800 + 256, 3072
    wide, narrow = (kv_bytes(kind, tokens, hidden, 24, 2, 1024) for kind in ("16-bit", attention))
    assert wide == 4 * tokens * hidden
    assert (4 - saved) * tokens * hidden < narrow < 1.03 * (4 - saved) * tokens * hidden
    plans = [plan_memory(fp8, BIG, Machine(vram_bytes=12 * GIB, attention=kind)) for kind in ("16-bit", attention)]
    assert all(map(holds, plans))
    assert plans[1].blocks.resident > plans[0].blocks.resident


def test_on_a_cpu_the_ram_limit_takes_the_encoder_layer_by_layer():
    model = plan_model("hunyuan-video-bf16")
    work = Work(height=64, width=64, frames=5, steps=1)
    whole = plan_memory(model, work, Machine(vram_bytes=0, ram_bytes=64 * GIB))
    tight = plan_memory(model, work, Machine(vram_bytes=0, ram_bytes=whole.stages[0].ram_bytes - 1))
    assert (whole.text_by_layer, tight.text_by_layer) == (False, True)
    assert tight.stages[0].ram_bytes < whole.stages[0].ram_bytes
