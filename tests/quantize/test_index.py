"""An index.json may name only plain files beside it; every other path in it is refused before anything is opened."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hvlite.errors import CheckpointError
from hvlite.quantize.readers.sharded_file import open_shards, read_index
from hvlite.quantize.source import open_transformer

INDEX = "diffusion_pytorch_model.safetensors.index.json"
SHARD = "diffusion_pytorch_model-00001-of-00003.safetensors"
UPS = ("..", "../..", "../../..", "./..", "x/..", "x/../..", ".//..", "..//..", "././..", "../.", "../x/../..")
TARGETS = ("secret.safetensors", "etc/passwd", "a/b/c.safetensors", "C:/x", "~/.ssh/id_rsa")
NAMES: list[Any] = [
    *(f"{up}/{target}" for up in UPS for target in TARGETS),
    *(f"{up}\\{target}" for up in ("..", "..\\..", "x\\..") for target in TARGETS),
    *(f"/{target}" for target in TARGETS),
    *(f"//{target}" for target in TARGETS),
    *(f"file://{target}" for target in TARGETS),
    *(f"https://localhost/{target}" for target in TARGETS),
    *(f"sub/{SHARD}" for _ in range(1)),
    *(
        f"{prefix}{SHARD}"
        for prefix in (
            "./",
            "/",
            "x/",
            ".\\",
            "\\",
            "\\\\server\\share\\",
            "\\\\?\\C:\\",
            "C:\\",
            "C:",
            "D:/",
            "~/",
            "a:b:",
        )
    ),
    *(
        f"{SHARD}{suffix}"
        for suffix in (
            "/",
            "/.",
            "\\",
            ":stream",
            "::$DATA",
            "\0",
            "\0.safetensors",
            "\n",
            "\r\n",
            "\x1b[2J",
            "?",
            "*",
            "|cat",
            '"',
            "<",
            ">",
        )
    ),
    *(
        "",
        ".",
        "..",
        "...",
        " ",
        "\0",
        "\n",
        "\t",
        "/",
        "\\",
        "//",
        "~",
        "*",
        "CON:",
        "nul:",
        "%2e%2e%2f",
        "..%2f..%2f",
        "%00",
        "\u202e.safetensors",
    ),
    *(
        "\ud800",
        "\uff0e\uff0e/x",
        "\u2215etc\u2215passwd",
        "‥/x",
        "a" * 256,
        "a" * 100_000,
        "é" * 200,
        "missing.safetensors",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/mem",
    ),
    *(None, True, 0, 1, -1, 1.5, [], {}, [SHARD], {"file": SHARD}, [[]]),
    "folder",
    "pipe",
    "device",
    "link_out",
    "link_up",
    "link_loop",
    "link_folder",
    "link_dangling",
    "link_absolute",
    "link_proc",
]


@pytest.fixture
def folder(golden: Path, tmp_path: Path) -> Path:
    """A copy of the sharded transformer, with traps beside it and something to steal above it."""
    folder = tmp_path / "model" / "transformer"
    shutil.copytree(golden / "ckpts_diffusers" / "transformer", folder)
    for above in (folder.parent, tmp_path):
        shutil.copy(folder / SHARD, above / "secret.safetensors")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    targets = {
        "device": "/dev/zero",
        "link_out": "../secret.safetensors",
        "link_up": "../../secret.safetensors",
        "link_loop": "link_loop",
        "link_folder": "folder",
        "link_dangling": "nothing",
        "link_absolute": str(tmp_path / "secret.safetensors"),
        "link_proc": "/proc/self/exe",
    }
    for name, target in targets.items():
        (folder / name).symlink_to(target)
    return folder


def write_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(change(index["weight_map"])))
    return folder / INDEX


def refused(index: Path, said: str = "") -> None:
    with pytest.raises(CheckpointError, match=said or None) as error:
        open_shards(index).close()
    assert str(index.parent) in error.value.message


def test_names_that_lead_elsewhere(folder: Path) -> None:
    weights = json.loads((folder / INDEX).read_text())["weight_map"]
    assert len(NAMES) >= 150
    for name in NAMES:
        (folder / INDEX).write_text(json.dumps({"weight_map": weights | {next(iter(weights)): name}}))
        refused(folder / INDEX)


def test_reading_the_index_opens_no_shard(folder: Path) -> None:
    places = read_index(folder / INDEX)
    assert {path.parent for path in places.values()} == {folder}


INDICES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a_list": (lambda _: [], "weight_map"),
    "no_map": (lambda weights: {"weights": weights}, "weight_map"),
    "empty_map": (lambda _: {"weight_map": {}}, "weight_map"),
    "map_is_a_list": (lambda weights: {"weight_map": list(weights)}, "weight_map"),
    "one_less": (lambda weights: {"weight_map": dict(list(weights.items())[1:])}, "does not say"),
    "one_more": (lambda weights: {"weight_map": weights | {"other": SHARD}}, "has no tensor 'other'"),
    "wrong_shard": (lambda weights: {"weight_map": dict.fromkeys(weights, SHARD)}, "has no tensor"),
    "too_many_tensors": (lambda _: {"weight_map": {str(number): SHARD for number in range(10_000)}}, "at most"),
}


@pytest.mark.parametrize("case", INDICES)
def test_indices_that_are_wrong(folder: Path, case: str) -> None:
    change, said = INDICES[case]
    refused(write_index(folder, change), said)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[1,", b"\xff", b"[" * 100_000, b'{"weight_map":{"a":"x","a":"y"}}', b'{"weight_map":NaN}', b"<html>"],
)
def test_indices_that_are_not_json(folder: Path, text: bytes) -> None:
    (folder / INDEX).write_bytes(text)
    refused(folder / INDEX, "not valid JSON")


def test_too_many_shards(folder: Path) -> None:
    names = [f"{number}.safetensors" for number in range(257)]
    for name in names:
        (folder / name).write_bytes(b"x")
    refused(write_index(folder, lambda _: {"weight_map": {name: name for name in names}}), "lists 257 files")


def test_a_missing_and_a_damaged_shard_are_named(folder: Path) -> None:
    whole = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(whole[:-5])
    refused(folder / INDEX, f"{SHARD}.*5 bytes short")
    (folder / SHARD).unlink()
    refused(folder / INDEX, f"{SHARD} is missing")


def test_a_download_cache_with_links_is_read(golden: Path, tmp_path: Path) -> None:
    """snapshots/<revision>/transformer/<name> -> ../../../blobs/<hash>, as the hub's cache keeps files."""
    repo = tmp_path / "models--x--y"
    folder = repo / "snapshots" / "0123" / "transformer"
    folder.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for number, path in enumerate(sorted((golden / "ckpts_diffusers" / "transformer").iterdir())):
        shutil.copy(path, repo / "blobs" / str(number))
        (folder / path.name).symlink_to(Path("../../../blobs") / str(number))
    with open_transformer(folder.parent) as source:
        assert len(source.names()) == 120
    outside = tmp_path / "blobs"
    shutil.move(repo / "blobs", outside)
    (repo / "blobs").symlink_to(outside)
    refused(folder / INDEX, "leads out of its folder")


def test_a_folder_reached_through_a_link_is_read(golden: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(golden / "ckpts_diffusers")
    with open_transformer(tmp_path / "link") as source:
        assert len(source.names()) == 120
