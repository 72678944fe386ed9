"""The tokenizers of a random model of full size stand in the place of the real ones: sizes, ids, prompt templates."""

from __future__ import annotations

import pytest

from hvlite.benchmarks.make_full_size import CLIP, LLAMA
from hvlite.benchmarks.random_tokenizers import write_clip_tokenizer, write_llama_tokenizer
from hvlite.lite.card import OFFICIAL_CARD
from hvlite.lite.encoders.tokenizer_files import load_tokenizers
from hvlite.quantize.readers.locate import ModelFiles

PROMPT = "A red circle moves to the right, then leaves: très vite."


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    return _written(tmp_path_factory.mktemp("tokenizers"), LLAMA["vocab_size"], CLIP["vocab_size"])


def _written(root, llama, clip):
    folders = [root / name for name in ("tokenizer", "tokenizer_2")]
    for folder, write, size in zip(folders, (write_llama_tokenizer, write_clip_tokenizer), (llama, clip), strict=True):
        folder.mkdir()
        write(folder, size)
    files = ModelFiles("hvlite", root, tokenizer=folders[0], tokenizer_2=folders[1])
    return load_tokenizers(files, OFFICIAL_CARD)


def test_the_special_tokens_have_llamas_ids(full_size):
    ids = full_size.video.encode(PROMPT).ids
    assert ids[:3] == (128000, 128006, full_size.video._tokenizer.token_to_id("system"))
    assert ids[-1] == 128009
    assert full_size.video.id_count == 128010


def test_the_templates_are_as_long_as_with_llamas(full_size):
    # PromptTokenizer refuses a tokenizer whose template is not crop_start long; words of a prompt are split further.
    assert (full_size.video._prefix_tokens(), full_size.image._prefix_tokens()) == (95, 36)
    assert len(full_size.video.encode(PROMPT).ids) > 95 + len(PROMPT.split())


def test_a_long_prompt_is_cut_where_the_model_ends(full_size):
    assert len(full_size.video.encode(PROMPT * 20).ids) == 351
    assert len(full_size.clip.encode(PROMPT * 20).ids) == 77


def test_clip_begins_and_ends_with_its_last_ids(full_size):
    ids = full_size.clip.encode(PROMPT).ids
    assert (ids[0], ids[-1], full_size.clip.id_count) == (49406, 49407, 49408)
    assert max(ids[1:-1]) < 49406


def test_small_tables_hold_them_as_well(tmp_path):
    small = _written(tmp_path, 1024, 1024)
    assert small.video.id_count == 1024 - 320 + 10
    assert small.clip.id_count == 1024
    assert len(small.video.encode(PROMPT).ids) > 95
