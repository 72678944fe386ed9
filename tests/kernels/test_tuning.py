"""The table of launch settings is complete, and a card it does not know gets a stated substitute."""

from __future__ import annotations

import pytest

from hvlite.errors import UnsupportedDeviceError
from hvlite.kernels import tuning
from hvlite.kernels.launch import CAPABILITIES, Launch

ENTRIES = [
    pytest.param(kernel, capability, id=f"{kernel}-{capability}")
    for kernel in tuning.LAUNCHES
    for capability in CAPABILITIES
    if capability >= 89 or "fp8" not in kernel  # e4m3 starts with compute capability 8.9
]


@pytest.fixture
def two_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = {"some_kernel": {86: Launch({"BLOCK": 64}, 4, 2, "a"), 90: Launch({"BLOCK": 128}, 8, 3, "b")}}
    monkeypatch.setattr(tuning, "LAUNCHES", launches)
    tuning.launch_for.cache_clear()


@pytest.mark.parametrize(("kernel", "capability"), ENTRIES)
def test_every_kernel_is_tuned_for_every_card(kernel: str, capability: int) -> None:
    launch = tuning.LAUNCHES[kernel][capability]
    assert launch.why.strip(), "an entry says which measurement or limit chose it"
    assert launch.num_warps in (1, 2, 4, 8, 16)
    assert launch.num_stages >= 1
    assert all(size >= 0 for size in launch.tiles.values())  # 0: a switch that is off
    assert tuning.launch_for(kernel, capability) is launch


def test_no_kernel_is_in_two_files() -> None:
    names = [kernel for part in tuning.PARTS for kernel in part]
    assert len(names) == len(set(names))


@pytest.mark.usefixtures("two_entries")
def test_an_unknown_card_takes_the_nearest_lower_settings_and_says_so() -> None:
    launch = tuning.launch_for("some_kernel", 89)
    assert launch.tiles == {"BLOCK": 64}
    assert launch.why == "settings of 8.6, the nearest lower one to 8.9: a"
    assert tuning.launch_for("some_kernel", 121).tiles == {"BLOCK": 128}


@pytest.mark.usefixtures("two_entries")
def test_a_card_below_all_is_refused() -> None:
    with pytest.raises(UnsupportedDeviceError, match=r"capability 7\.5; the lowest is 8\.6"):
        tuning.launch_for("some_kernel", 75)


@pytest.mark.parametrize(("triton", "paired"), [("3.6.0", 0), ("3.7.1", 1), (None, 1)])
def test_triton_3_6_gets_what_does_not_spill_there(triton: str | None, paired: int) -> None:
    table = tuning.launches_under(triton)
    assert {table["joint_attention int8-fp16"][card].tiles["PAIRED"] for card in (86, 89)} == {paired}
    assert table.keys() == tuning.launches_under("3.7.1").keys()
    assert table["joint_attention int8-fp16"].keys() == set(CAPABILITIES)
