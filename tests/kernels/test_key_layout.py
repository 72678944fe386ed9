"""Where keys lie: every token has one place, full blocks come first, spans of any size find their places."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hvlite.errors import ConfigError
from hvlite.kernels.attention_variant import KEY_BLOCK
from hvlite.kernels.key_layout import KeyBlocks, KeyLayout

SEGMENTS = st.lists(st.integers(1, 400), min_size=1, max_size=2).map(tuple)


@given(segments=SEGMENTS)
def test_every_token_has_its_own_place(segments):
    layout = KeyLayout(segments)
    places = layout.token_places()
    assert len(set(places)) == len(places) == sum(segments)
    assert layout.keys % KEY_BLOCK == 0
    by_block = torch.bincount(torch.tensor(places) // KEY_BLOCK, minlength=layout.blocks).tolist()
    assert by_block == [KEY_BLOCK] * layout.full_blocks + list(layout.tails)


@given(segments=SEGMENTS, chunk=st.integers(1, 5))
def test_spans_find_the_places_of_the_whole(segments, chunk):
    layout, places, offset = KeyLayout(segments), [], 0
    for count in segments:
        for start in range(0, count, chunk * KEY_BLOCK):
            end = min(start + chunk * KEY_BLOCK, count)
            for _, keys in layout.place(offset + start, offset + end).runs(end - start):
                places += range(keys.start, keys.stop)
        offset += count
    assert places == layout.token_places()


@pytest.mark.parametrize(("start", "end"), [(1, 64), (0, 63), (0, 101), (64, 120), (150, 151)])
def test_spans_that_share_a_block_are_refused(start, end):
    with pytest.raises(ConfigError, match=r"do not lie on blocks|is not in a sequence"):
        KeyLayout((100, 50)).place(start, end)


@pytest.mark.parametrize("segments", [(), (0,), (5, 0), (1, 2, 3)])
def test_segments_that_cannot_be(segments):
    with pytest.raises((ConfigError, ValueError)):
        KeyLayout(segments)


def test_lists_have_full_blocks_first():
    layout = KeyLayout((150, 70))
    blocks = KeyBlocks.from_mask(torch.tensor([[[[False, True, True, False, True]]]]), layout, 128)
    assert blocks.ids[0, 0, 0, :3].tolist() == [1, 2, 4]
    assert blocks.counts[0, 0, 0].tolist() == [2, 3]
    with pytest.raises(ConfigError, match="expected"):
        KeyBlocks.from_mask(torch.ones(1, 1, 1, 4, dtype=torch.bool), layout, 128)
