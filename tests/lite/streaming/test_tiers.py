"""Which block goes to which tier."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvlite.errors import ConfigError
from hvlite.lite.streaming.tiers import TIER_CHOICES, TIERS, TierCounts, choose_tier, spread_tiers

COUNTS = st.builds(TierCounts, st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))


@given(counts=COUNTS)
def test_every_prefix_has_its_share_of_every_tier(counts):
    """So any run of blocks holds its share of the copies, within two; the counts are exact."""
    tiers = spread_tiers(counts)
    assert TierCounts.of(tiers) == counts
    given_out = dict.fromkeys(TIERS, 0)
    for position, tier in enumerate(tiers, 1):
        given_out[tier] += 1
        for each in TIERS:
            assert abs(given_out[each] - getattr(counts, each) * position / counts.total) < 1


def test_two_tiers_alternate():
    assert spread_tiers(TierCounts(2, 2, 0)) == ("resident", "host", "resident", "host")


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        (TierCounts(60), "resident"),
        (TierCounts(disk=60), "disk"),
        (TierCounts(20, 0, 40), "20 resident, 40 disk"),
        (TierCounts(), "resident"),
    ],
)
def test_text(counts, text):
    assert str(counts) == text


def test_negative_counts_are_refused():
    with pytest.raises(ConfigError, match="-1 blocks in tier host"):
        TierCounts(1, -1, 0)


@pytest.mark.parametrize("choice", TIER_CHOICES)
def test_only_a_converted_model_can_be_streamed(choice, tmp_path):
    assert choose_tier(choice, tmp_path, streamable=True) == choice.replace("auto", "resident")
    if choice in ("auto", "resident"):
        assert choose_tier(choice, tmp_path, streamable=False) == "resident"
    else:
        with pytest.raises(ConfigError, match="hvlite quantize"):
            choose_tier(choice, tmp_path, streamable=False)


def test_an_unknown_tier_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="one of auto, resident, host, disk"):
        choose_tier("cloud", tmp_path, streamable=True)
