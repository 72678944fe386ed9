from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvlite.commands.again import decode, rerun
from hvlite.commands.generate import generate
from hvlite.errors import ConfigError, DiskError, MissingPartError
from hvlite.lite.card import OFFICIAL_CARD, demo_root
from hvlite.lite.config import DecodeRequest, GenerateConfig, GenerateRequest
from hvlite.lite.output.encoding import VideoEncoding
from hvlite.lite.request.model_choice import choose_model
from hvlite.lite.request.naming import (
    NAME_LIMIT_BYTES,
    chosen_name,
    clip_bytes,
    free_name,
    name_is_too_long,
    numbered,
    slug,
)
from hvlite.lite.request.official_flags import FIXED_FLAGS, OfficialFlag, spell_out_size, take_official_flags
from hvlite.lite.request.options import DecodeOptions, GenerateOptions, RerunOptions
from hvlite.lite.request.output_checks import check_disk, check_folder, needed_bytes
from hvlite.lite.request.resume_command import decode_command, resume_command

CONFIG = GenerateConfig.from_card(OFFICIAL_CARD, prompt="a cat's walk -x", seed=7)
PRINTING = {"ctx", "json_lines", "dry_run", "debug"}


@pytest.mark.parametrize(
    ("command", "options"), [(generate, GenerateOptions), (rerun, RerunOptions), (decode, DecodeOptions)]
)
def test_the_options_are_those_of_the_command(command: object, options: type) -> None:
    parameters = set(command.__annotations__) - {"return"} - PRINTING  # type: ignore[attr-defined]
    assert parameters == {field.name for field in fields(options)}


@given(st.text(), st.integers(0, 2**63 - 1))
def test_chosen_names_are_short_and_harmless(prompt: str, seed: int) -> None:
    name = chosen_name(prompt, seed, ".mp4")
    assert not name_is_too_long(Path(name))
    assert Path(name).name == name
    assert not re.search(r"[\s/\\:*?\"<>|\0]", name)
    assert not name.startswith((".", "-"))
    assert name.endswith(f"_seed{seed}.mp4")


@given(st.text(), st.integers(0, 40))
def test_clipping_cuts_no_character(text: str, limit: int) -> None:
    clipped = clip_bytes(text, limit)
    assert text.startswith(clipped)
    assert len(clipped.encode()) <= limit
    if clipped != text:
        assert len(text[: len(clipped) + 1].encode()) > limit


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red circle, moving!", "a-red-circle-moving"),
        ("猫が走る", "猫が走る"),
        ("../../etc/passwd", "etc-passwd"),
        ("😀 ...", "video"),
        ("CON", "con"),
        ("x" * 300, "x" * 80),
    ],
)
def test_slugs(prompt: str, name: str) -> None:
    assert slug(prompt) == name


def test_numbers_and_free_names(tmp_path: Path) -> None:
    output = tmp_path / "a.mp4"
    assert numbered(output, 0, 1) == output
    assert [numbered(output, index, 10).name for index in (0, 9)] == ["a-01.mp4", "a-10.mp4"]
    assert free_name(output) == output
    output.touch()
    (tmp_path / "a_2.mp4.hvlite").mkdir()
    (tmp_path / "a_3.mp4").symlink_to("nowhere")
    assert free_name(output).name == "a_4.mp4"


def test_long_names() -> None:
    assert not name_is_too_long(Path("x" * (NAME_LIMIT_BYTES - 32)))
    assert name_is_too_long(Path("猫" * 80))


def test_needed_bytes_cover_raw_frames_and_latents() -> None:
    raw = CONFIG.frames * CONFIG.height * CONFIG.width * 3
    latents = 4 * 16 * 33 * 90 * 160
    assert needed_bytes(CONFIG, VideoEncoding(kind="lossless")) > raw + 2 * latents
    assert needed_bytes(CONFIG, VideoEncoding()) > raw / 3 + 2 * latents


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    check_disk(tmp_path / "not" / "there", 0)
    with pytest.raises(DiskError, match="MiB free"):
        check_disk(tmp_path, 1 << 60)


def test_folders(tmp_path: Path) -> None:
    check_folder(tmp_path, makes_folder=False)
    check_folder(tmp_path / "new" / "one", makes_folder=True)
    with pytest.raises(ConfigError, match="does not exist"):
        check_folder(tmp_path / "new", makes_folder=False)


def test_a_folder_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Permissions do not bind root, which tests may run as: the answer of the system is what is replaced.
    monkeypatch.setattr("hvlite.lite.request.output_checks.os.access", lambda path, mode: False)
    with pytest.raises(DiskError, match="not writable"):
        check_folder(tmp_path, makes_folder=False)


def two_models(folder: Path, golden: Path) -> Path:
    """A tree with weights for 540p and 720p, those for 720p also in fp8."""
    base = golden / "ckpts_official"
    for part in ("text_encoder", "text_encoder_2"):
        (folder / part).symlink_to(base / part)
    for resolution in ("540p", "720p"):
        model = folder / f"hunyuan-video-t2v-{resolution}"
        (model / "transformers").mkdir(parents=True)
        (model / "vae").symlink_to(base / "hunyuan-video-t2v-720p" / "vae")
        for path in (base / "hunyuan-video-t2v-720p" / "transformers").iterdir():
            (model / "transformers" / path.name).symlink_to(path)
    for path in (golden / "fp8").glob("*.pt"):
        (folder / "hunyuan-video-t2v-720p" / "transformers" / path.name).symlink_to(path)
    return folder


def test_the_model_of_a_resolution(tmp_path: Path, golden: Path) -> None:
    folder = two_models(tmp_path, golden)
    for resolution in ("540p", "720p"):
        choice = choose_model(folder, None, use_fp8=False, resolution=resolution)
        assert choice.files.transformer is not None
        assert choice.files.transformer.path.parts[-3] == f"hunyuan-video-t2v-{resolution}"
        assert choice.files.root == folder
    one = choose_model(golden / "ckpts_official", None, use_fp8=False, resolution="540p")
    assert one.given == golden / "ckpts_official"


def test_fp8_takes_the_file_beside_the_plain_one(tmp_path: Path, golden: Path) -> None:
    choice = choose_model(two_models(tmp_path, golden), None, use_fp8=True)
    assert choice.dit_weight is not None
    assert choice.dit_weight.name == "mp_rank_00_model_states_fp8.pt"
    assert choice.files.transformer is not None
    assert choice.files.transformer.path == choice.dit_weight
    named = golden / "fp8" / "mp_rank_00_model_states_fp8.pt"
    assert choose_model(golden / "ckpts_official", named, use_fp8=True).dit_weight == named


@pytest.mark.skipif(not demo_root().is_dir(), reason="the model that ships is not trained yet")
def test_without_a_model_it_is_the_one_that_ships() -> None:
    choice = choose_model(None, None, use_fp8=False)
    assert choice.given is None
    assert choice.root == demo_root()


def test_an_installation_without_its_model_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("hvlite.lite.request.model_choice.demo_root", lambda: tmp_path / "weights")
    with pytest.raises(MissingPartError, match="ships with hvlite"):
        choose_model(None, None, use_fp8=False)


def accepted(flag: OfficialFlag) -> list[list[str]]:
    return [[flag.name]] if flag.values is None else [[flag.name, value] for value in flag.values]


@pytest.mark.parametrize("flag", FIXED_FLAGS, ids=lambda flag: flag.name)
def test_official_flags_are_taken_out_or_refused(flag: OfficialFlag) -> None:
    for words in accepted(flag):
        for spelled in (words, ["=".join(words)]):
            if flag.refused:
                with pytest.raises(ConfigError, match=flag.name):
                    take_official_flags(spelled)
                continue
            left, notes = take_official_flags(["a cat", *spelled, "--frames", "5"])
            assert left == ["a cat", "--frames", "5"]
            assert notes == ([f"{flag.name}: {flag.note}"] if flag.note else [])
    if flag.values is not None and not flag.shared:
        for words in ([flag.name, "something else"], [f"{flag.name}="], [flag.name]):
            with pytest.raises(ConfigError, match=flag.name) as caught:
                take_official_flags(words)
            assert caught.value.hint


@pytest.mark.parametrize(
    "words",
    [
        ["--model", "ckpts"],
        ["--prompt", "--vae"],
        ["--neg-prompt", "--batch-size"],
        ["--", "--vae", "x"],
        ["--prompt=--vae"],
    ],
)
def test_other_words_pass(words: list[str]) -> None:
    assert take_official_flags(words) == (words, [])


@pytest.mark.parametrize(
    ("words", "spelled"),
    [
        (["--video-size", "512"], ["--video-size", "512", "512"]),
        (["--video-size", "512", "--steps", "3"], ["--video-size", "512", "512", "--steps", "3"]),
        (["--video-size", "512", "256"], ["--video-size", "512", "256"]),
        (["--video-size", "512", "a cat"], ["--video-size", "512", "512", "a cat"]),
        (["--video-size", "512", "-256"], ["--video-size", "512", "-256"]),
        (["--", "--video-size", "512"], ["--", "--video-size", "512"]),
        (["--size", "80x96", "-o", "a.mp4"], ["--size", "80", "96", "-o", "a.mp4"]),
        (["--video-size=80X96"], ["--video-size", "80", "96"]),
        (["--size", "80x"], ["--size", "80x"]),
    ],
)
def test_a_single_size_is_a_square(words: list[str], spelled: list[str]) -> None:
    assert spell_out_size(words) == spelled


def test_the_resume_command_says_what_is_not_the_cards() -> None:
    request = GenerateRequest(config=CONFIG, output=Path("a b.mp4"), model=Path("ckpts"))
    words = resume_command(request, OFFICIAL_CARD)
    assert shlex.split(shlex.join(words)) == [
        "hvlite",
        "generate",
        "--prompt=a cat's walk -x",
        "--seed",
        "7",
        "--output=a b.mp4",
        "--model=ckpts",
        "--resume",
    ]


def test_the_command_of_a_decode_says_all_that_was_given() -> None:
    request = DecodeRequest(
        latents=Path("a b.mp4.hvlite/latents.safetensors"),
        output=Path("c.mp4"),
        model=Path("ckpts"),
        model_config_file=Path("rope.json"),
        fps=12,
        tiled=False,
        force=True,
        on_nonfinite="retry",
        ram_limit_bytes=20 << 30,
        vram_limit_bytes=8000,
        device="cpu",
    )
    assert decode_command(request) == [
        "hvlite", "decode", "a b.mp4.hvlite/latents.safetensors", "--output=c.mp4", "--model=ckpts",
        "--model-config=rope.json", "--vram-limit=8000B", "--ram-limit=20GiB", "--on-nonfinite=retry", "--device=cpu",
        "--fps=12", "--no-vae-tiling", "--force",
    ]  # fmt: skip
