"""A prompt that was encoded before: the same embeddings, no encoder loaded, and damage is noticed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hvlite
from hvlite.cli import main
from hvlite.errors import HvliteError
from hvlite.lite.card import OFFICIAL_CARD
from hvlite.lite.config import GenerateConfig
from hvlite.lite.encoders.prompt_cache import PromptCache, cache_folder
from hvlite.lite.encoders.tokens import Truncation
from hvlite.lite.events import Event
from hvlite.lite.pipeline import Conditioning
from hvlite.lite.text import PromptEmbeds

PROMPT = "a fox on the ice"
CONFIG = GenerateConfig(
    prompt=PROMPT, height=32, width=48, frames=5, steps=2, guidance_scale=6.0, flow_shift=7.0, seed=11, fps=8
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HVLITE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prompts"


@pytest.fixture
def model(golden: Path, tmp_path: Path) -> Path:
    """A writable copy of a tree."""
    shutil.copytree(golden / "ckpts_diffusers", tmp_path / "model", copy_function=shutil.copyfile)
    return tmp_path / "model"


def embed(pipeline: hvlite.Pipeline, config: GenerateConfig = CONFIG) -> Conditioning:
    return pipeline.embed(config, pipeline.arrange(config))


def break_weights(model: Path) -> None:
    """Encoders that cannot be loaded."""
    for path in [*model.glob("text_encoder/*.safetensors"), *model.glob("text_encoder_2/*.safetensors")]:
        path.write_bytes(b"no weights")


def same(one: PromptEmbeds, other: PromptEmbeds) -> bool:
    tensors = [(getattr(one, name), getattr(other, name)) for name in ("prompt_embeds", "prompt_mask")]
    tensors.append((one.pooled_prompt_embeds, other.pooled_prompt_embeds))
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in tensors) and one.truncations == other.truncations


def test_a_repeated_prompt_needs_no_encoder(model):
    guided = replace(CONFIG, cfg_scale=3.0, negative_prompt="blurred")
    pipeline = hvlite.load(model, device="cpu")
    first, arrangement = embed(pipeline, guided), pipeline.arrange(guided)
    break_weights(model)
    again = pipeline.embed(guided, arrangement)
    assert again.positive.cached
    assert again.negative.cached
    assert not first.positive.cached
    assert same(again.positive, first.positive)
    assert same(again.negative, first.negative)
    for other in (replace(guided, prompt="a dog"), replace(guided, frames=1)):  # an image has another template
        with pytest.raises(HvliteError):
            pipeline.embed(other, arrangement)


def test_another_process_finds_it_and_the_video_is_the_same(model):
    first = hvlite.load(model, device="cpu").generate(CONFIG)
    pipeline = hvlite.load(model, device="cpu")
    assert embed(pipeline).positive.cached
    assert torch.equal(pipeline.generate(CONFIG).frames, first.frames)


def test_truncations_come_back_and_no_word_of_the_prompt_is_written(model, folder):
    config = replace(CONFIG, prompt="secretword " * 400)
    first = embed(hvlite.load(model, device="cpu"), config).positive
    again = embed(hvlite.load(model, device="cpu"), config).positive
    assert first.truncations
    assert same(first, again)
    (entry,) = folder.glob("*")
    assert b"secretword" not in entry.read_bytes()
    assert folder.stat().st_mode & 0o77 == 0


def flip_a_bit(entry: Path) -> None:
    data = bytearray(entry.read_bytes())
    data[-5] ^= 1
    entry.write_bytes(data)


def another_entry(entry: Path) -> None:
    other = embed(hvlite.load(entry.parents[2] / "model", device="cpu"), replace(CONFIG, prompt="a dog"))
    assert not other.positive.cached
    (path,) = set(entry.parent.glob("*")) - {entry}
    os.replace(path, entry)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        another_entry,
        lambda entry: entry.write_bytes(entry.read_bytes()[:-9]),
        lambda entry: entry.write_bytes(b""),
        lambda entry: entry.write_bytes(entry.read_bytes().replace(b'"truncations": "[]"', b'"truncations": "[7"')),
    ],
    ids=["bit", "other", "cut", "empty", "words"],
)
def test_a_damaged_entry_is_told_and_made_anew(model, folder, damage: Callable[[Path], object]):
    first = embed(hvlite.load(model, device="cpu")).positive
    (entry,) = folder.glob("*")
    whole = entry.read_bytes()
    damage(entry)
    assert entry.read_bytes() != whole
    events: list[Event] = []
    again = embed(hvlite.load(model, device="cpu", on_event=events.append)).positive
    assert not again.cached
    assert same(first, again)
    assert [event.level for event in events] == ["warning"]
    assert "encoded anew" in events[0].text
    assert entry.read_bytes() == whole


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2", "tokenizer"])
def test_another_encoder_is_another_key(model, folder, part):
    embed(hvlite.load(model, device="cpu"))
    for path in (model / part).glob("*.safetensors" if "encoder" in part else "tokenizer.json"):
        if "encoder" in part:
            os.utime(path, (1, 1))
        else:
            path.write_bytes(path.read_bytes() + b"\n")
    assert not embed(hvlite.load(model, device="cpu")).positive.cached
    assert len(list(folder.glob("*"))) == 2


def test_no_cache_reads_and_writes_nothing(model, folder):
    embed(hvlite.load(model, device="cpu", prompt_cache=False))
    assert not folder.exists()
    embed(hvlite.load(model, device="cpu"))
    assert not embed(hvlite.load(model, device="cpu", prompt_cache=False)).positive.cached


def test_a_folder_that_cannot_be_made_costs_a_warning(model, folder):
    folder.parent.write_text("a file is in the way")
    events: list[Event] = []
    assert not embed(hvlite.load(model, device="cpu", on_event=events.append)).positive.cached
    assert "not kept" in events[-1].text


def entry(number: int, size: int = 1000) -> PromptEmbeds:
    return PromptEmbeds(torch.full((1, size, 4), float(number)), torch.ones(1, size).long(), torch.zeros(1, 3))


def test_the_least_recently_used_go_first(tmp_path):
    folder = tmp_path / "prompts"
    cache = PromptCache(folder, OFFICIAL_CARD, "x", limit_bytes=80_000)  # an entry is 24 KB and a header
    for number in range(3):
        cache.put(str(number), entry(number), image=False)
        os.utime(cache.path(str(number), image=False), (number + 1, number + 1))
    assert cache.get("0", image=False) is not None  # used just now
    abandoned, fresh = folder / ".0.part", folder / ".1.part"
    abandoned.touch()
    fresh.touch()
    os.utime(abandoned, (1, time.time() - 7200))
    cache.put("3", entry(3), image=False)
    assert [cache.get(str(number), image=False) is not None for number in range(4)] == [True, False, True, True]
    assert (abandoned.exists(), fresh.exists()) == (False, True)
    cache.put("large", entry(4, size=9000), image=False)  # the newest stays, whatever its size
    assert [path.name for path in folder.glob("*.safetensors")] == [cache.path("large", image=False).name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_bit_comes_back(tmp_path, dtype):
    cut = Truncation("text_encoder", 9, 5, "abc ", "déf")
    embeds = PromptEmbeds(
        torch.randn(1, 7, 5, dtype=dtype), torch.ones(1, 7).long(), torch.randn(1, 3).to(dtype), (cut,)
    )
    cache = PromptCache(tmp_path / "a" / "b", OFFICIAL_CARD, "x")
    cache.put(" abc déf ", embeds, image=True)
    found = cache.get("abc déf", image=True)
    assert found is not None
    assert same(found, embeds)
    assert cache.get("abc déf", image=False) is None
    assert replace(cache, encoders="y").get("abc déf", image=True) is None


def test_where_the_folder_is():
    assert cache_folder({"HVLITE_CACHE_DIR": "/a"}) == Path("/a/prompts")
    assert cache_folder({"XDG_CACHE_HOME": "/b"}) == Path("/b/hvlite/prompts")
    home = Path("~/.cache/hvlite/prompts").expanduser()
    assert cache_folder({"XDG_CACHE_HOME": "relative"}) == home
    assert cache_folder({}) == home


def test_the_command_line_says_so(model, tmp_path, capsys):
    def details(output: str, *options: str) -> list[str]:
        words = ["generate", PROMPT, "--model", str(model), "--video-size", "32", "48", "--frames", "5", "--steps", "1"]
        assert main([*words, "--output", str(tmp_path / output), "--device", "cpu", "--json", *options]) == 0
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return [event["detail"] for event in events if event.get("stage") == "embed" and event.get("detail")]

    (first,) = details("a.mp4")
    (second,) = details("b.mp4")
    (third,) = details("c.mp4", "--no-prompt-cache")
    assert "kept from an earlier run" in second
    assert first == third
    assert first in second
