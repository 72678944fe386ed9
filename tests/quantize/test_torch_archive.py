"""Damaged and misleading `.pt` archives: views that leave their data, compression, other kinds of file."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hvlite.errors import CheckpointError
from hvlite.quantize.readers.torch_file import open_torch

CraftPt = Callable[..., Path]


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu%stQ"


def tensor_pickle(numel: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """{"a": a float32 tensor} over storage 0, with any numbers."""
    number = lambda value: b"\x8a\x10" + value.to_bytes(16, "little", signed=True)  # noqa: E731
    numbers = lambda values: b"(" + b"".join(map(number, values)) + b"t"  # noqa: E731
    return (
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n("
        + (STORAGE % number(numel))
        + number(offset)
        + numbers(shape)
        + numbers(strides)
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )


VIEWS: dict[str, tuple[int, int, tuple[int, ...], tuple[int, ...]]] = {
    "past_the_end": (4, 1, (4,), (1,)),
    "stride_past_the_end": (4, 0, (2,), (4,)),
    "offset_past_the_end": (4, 5, (0,), (1,)),
    "negative_offset": (4, -1, (2,), (1,)),
    "negative_stride": (4, 3, (2,), (-1,)),
    "negative_size": (4, 0, (-1,), (1,)),
    "stride_0_repeats_to_a_terabyte": (4, 0, (2**38,), (0,)),
    "stride_0_slightly_too_large": (4, 0, (5,), (0,)),
    "sizes_overflow_64_bits": (4, 0, (2**32, 2**32, 2**32), (0, 0, 0)),
    "zero_times_huge": (4, 0, (0, 2**62), (1, 1)),
    "more_sizes_than_strides": (4, 0, (2, 2), (1,)),
    "nine_dimensions": (4, 0, (1,) * 9, (1,) * 9),
    "storage_larger_than_entry": (5, 0, (5,), (1,)),
    "storage_smaller_than_entry": (3, 0, (3,), (1,)),
    "negative_storage": (-4, 0, (0,), (1,)),
}


@pytest.mark.parametrize("case", VIEWS)
def test_views_stay_inside_their_storage(craft_pt: CraftPt, case: str) -> None:
    with pytest.raises(CheckpointError, match="'a'"):
        open_torch(craft_pt(tensor_pickle(*VIEWS[case]), {"0": bytes(16)}))


def test_the_crafted_tensor_is_read_where_it_is_right(craft_pt: CraftPt) -> None:
    data = struct.pack("<4f", 1, 2, 3, 4)
    with open_torch(craft_pt(tensor_pickle(4, 1, (3,), (1,)), {"0": data})) as file:
        assert file.read("a").tolist() == [2, 3, 4]
    with open_torch(craft_pt(tensor_pickle(4, 0, (2, 2), (1, 2)), {"0": data})) as file:
        assert file.read("a").tolist() == [[1, 3], [2, 4]]
    with pytest.raises(CheckpointError, match="data of 'a' is missing"):
        open_torch(craft_pt(tensor_pickle(4, 0, (4,), (1,)), {"1": data}))


GOOD = tensor_pickle(4, 0, (4,), (1,))


def test_compressed_entries_cost_no_memory(craft_pt: CraftPt) -> None:
    path = craft_pt(GOOD, {"0": bytes(200_000_000)}, compress=True)
    assert path.stat().st_size < 1_000_000
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="is compressed"):
        open_torch(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_archives_that_are_something_else(craft_pt: CraftPt) -> None:
    for more, said in (
        ({"x/byteorder": b"big"}, "little-endian"),
        ({"x/constants.pkl": b"."}, "TorchScript"),
        ({"y/data.pkl": b"."}, "two checkpoints"),
        ({"x/data/\x1b[31m": b""}, "printable"),
    ):
        with pytest.raises(CheckpointError, match=said):
            open_torch(craft_pt(GOOD, {"0": bytes(16)}, more))


def test_older_files_do_not_say_their_byte_order(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("archive/data.pkl", GOOD)
        archive.writestr("archive/data/0", struct.pack("<4f", 1, 2, 3, 4))
    with open_torch(tmp_path / "x.pt") as file:
        assert file.read("a").tolist() == [1, 2, 3, 4]


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for content, said in (
        (b"", "empty"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1", "git-lfs"),
        (b"GGUF" + bytes(40), "GGUF"),
        (b"\x02" + bytes(7) + b"{}", "a safetensors file"),
        (pickle.dumps({"a": 1}, 2), "bare pickle"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "before version 1.6"),
        (b"PK\x03\x04" + bytes(100), "end is missing"),
        (b"PK\x05\x06" + bytes(18), "empty zip"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=said):
            open_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("document.xml", "x")
    with pytest.raises(CheckpointError, match=r"torch\.save did not write"):
        open_torch(path)


def test_cuts_and_changed_bytes_never_escape(tmp_path: Path) -> None:
    """Damage anywhere: read or refused, nothing else. The data itself carries no checksum that is checked here."""
    path = tmp_path / "x.pt"
    torch.save({"module": {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.ones(3).bfloat16()}}, path)
    whole = path.read_bytes()
    variants = [whole[:length] for length in range(0, len(whole), 7)]
    generator = torch.Generator().manual_seed(5)
    places = torch.randint(len(whole), (700,), generator=generator).tolist()
    variants += [whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :] for at in places]
    refused = 0
    for content in variants:
        path.write_bytes(content)
        try:
            with open_torch(path) as file:
                for name in file.names():
                    file.read(name)
        except CheckpointError:
            refused += 1
    assert len(whole) // 7 < refused < len(variants)


def test_a_pickle_that_is_too_large_is_not_read(craft_pt: CraftPt) -> None:
    path = craft_pt(GOOD + bytes(17_000_000), {"0": bytes(16)})
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="its pickle is 17000"):
        open_torch(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


TYPED = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
UNTYPED = TYPED.replace(b"torch\nFloatStorage", b"torch.storage\nUntypedStorage")
CALLS = {
    "v2_without_a_dtype": b"ctorch._utils\n_rebuild_tensor_v2\n(" + UNTYPED + b"K\x00)))tR",
    "v3_of_an_unknown_dtype": b"ctorch._utils\n_rebuild_tensor_v3\n(" + UNTYPED + b"K\x00)))}ctorch\nFloatStorage\ntR",
    "offset_is_text": b"ctorch._utils\n_rebuild_tensor_v2\n(" + TYPED + b"X\x01\0\0\x000)))tR",
    "offset_is_true": b"ctorch._utils\n_rebuild_tensor_v2\n(" + TYPED + b"\x88)))tR",
    "sizes_in_a_list": b"ctorch._utils\n_rebuild_tensor_v2\n(" + TYPED + b"K\x00])))tR",
    "strides_in_a_list": b"ctorch._utils\n_rebuild_tensor_v2\n(" + TYPED + b"K\x00)]))tR",
    "size_is_text": b"ctorch._utils\n_rebuild_tensor_v2\n(" + TYPED + b"K\x00X\x01\0\0\x001\x85K\x01\x85))tR",
    "size_is_true": b"ctorch._utils\n_rebuild_tensor_v2\n(" + TYPED + b"K\x00\x88\x85K\x01\x85))tR",
    "stride_is_none": b"ctorch._utils\n_rebuild_tensor_v2\n(" + TYPED + b"K\x00K\x01\x85N\x85))tR",
    "parameter_of_a_dict": b"ctorch._utils\n_rebuild_parameter\n(}\x88}tR",
}


@pytest.mark.parametrize("case", CALLS)
def test_calls_that_no_checkpoint_makes(craft_pt: CraftPt, case: str) -> None:
    pickle_of = b"\x80\x02}X\x01\0\0\0a" + CALLS[case] + b"s."
    with pytest.raises(CheckpointError, match=r"in an unknown way|in a way no checkpoint does"):
        open_torch(craft_pt(pickle_of, {"0": bytes(16)}))
