from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hvlite.errors import CheckpointError
from hvlite.quantize.readers.safetensors_file import open_safetensors
from hvlite.quantize.readers.safetensors_header import MAX_HEADER_BYTES
from hvlite.quantize.readers.tensor_file import MAX_TENSORS, TORCH_NAMES

Craft = Callable[..., Path]


def entry(dtype: object, shape: object, begin: object, end: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


A = entry("F32", [1], 0, 4)
B = entry("F32", [1], 4, 8)
TEXT_A = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'

# name of the case: (header, data, length of the header or None for the true one, what the message says)
BAD: dict[str, tuple[dict[str, object] | bytes, bytes, int | None, str]] = {
    "empty_header": (b"", b"", None, "never written"),
    "length_zero": ({"a": A}, bytes(4), 0, "never written to its end"),
    "length_huge": ({"a": A}, bytes(4), 2**62, "at most"),
    "length_all_ones": ({"a": A}, bytes(4), 2**64 - 1, "at most"),
    "length_just_over_limit": ({"a": A}, bytes(4), MAX_HEADER_BYTES + 1, "at most"),
    "length_past_end": ({"a": A}, bytes(4), 500, "bytes short"),
    "length_cuts_header": ({"a": A}, bytes(4), 20, "JSON"),
    "length_into_data": (b"{" + TEXT_A + b"}", bytes(4), len(TEXT_A) + 4, "JSON"),
    "a_list": (b"[]", b"", None, "not a safetensors file"),
    "leading_space": (b" {}", b"", None, "not a safetensors file"),
    "not_utf8": (b'{"\xff":1}', b"", None, "UTF-8"),
    "utf16": ("{}".encode("utf-16-le"), b"", None, "JSON"),
    "not_json": (b"{oops}", b"", None, "JSON"),
    "two_objects": (b"{}{}", b"", None, "JSON"),
    "trailing_newline_text": (b"{} x", b"", None, "JSON"),
    "deep_nesting": (b'{"a":' + b"[" * 16_000 + b"]" * 16_000 + b"}", b"", None, "nested too deeply"),
    "too_many_brackets": (b'{"a":' + b"[" * 70_000, b"", None, "more than"),
    "too_many_objects": (b'{"a":' + b"{" * 40_000, b"", None, "more than"),
    "too_many_commas": (b"{" + b"," * 500_000, b"", None, "more than"),
    "duplicate_name": (b"{" + TEXT_A + b"," + TEXT_A + b"}", bytes(4), None, "twice"),
    "duplicate_field": (
        b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
        None,
        "twice",
    ),
    "duplicate_metadata": (b'{"__metadata__":{"a":"b","a":"b"}}', b"", None, "twice"),
    "missing_field": ({"a": {"dtype": "F32", "shape": [1]}}, bytes(4), None, "'a' is not described"),
    "extra_field": ({"a": {**A, "extra": 1}}, bytes(4), None, "'a' is not described"),
    "entry_is_null": ({"a": None}, bytes(4), None, "'a' is not described"),
    "entry_is_text": ({"a": "F32"}, bytes(4), None, "'a' is not described"),
    "dtype_unknown": ({"a": entry("F4", [1], 0, 4)}, bytes(4), None, "'a' has the element type 'F4'"),
    "dtype_lowercase": ({"a": entry("f32", [1], 0, 4)}, bytes(4), None, "element type"),
    "dtype_number": ({"a": entry(32, [1], 0, 4)}, bytes(4), None, "element type"),
    "dtype_list": ({"a": entry(["F32"], [1], 0, 4)}, bytes(4), None, "element type"),
    "shape_number": ({"a": entry("F32", 1, 0, 4)}, bytes(4), None, "shape of 'a'"),
    "shape_of_bools": ({"a": entry("F32", [True], 0, 4)}, bytes(4), None, "shape of 'a'"),
    "shape_of_text": ({"a": entry("F32", ["1"], 0, 4)}, bytes(4), None, "shape of 'a'"),
    "shape_too_long": ({"a": entry("F32", [1] * 9, 0, 4)}, bytes(4), None, "shape of 'a'"),
    "shape_negative": ({"a": entry("F32", [-1], 0, 4)}, bytes(4), None, "number -1"),
    "shape_minus_zero": (b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}', b"", None, "number -0"),
    "shape_float": ({"a": entry("F32", [1.0], 0, 4)}, bytes(4), None, "number 1.0"),
    "shape_exponent": (b'{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}', bytes(4), None, "number 1e0"),
    "shape_nan": (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', bytes(4), None, "number NaN"),
    "shape_overflows": ({"a": entry("F32", [2**32, 2**32, 2], 0, 4)}, bytes(4), None, "overflows"),
    "shape_wraps_to_size": ({"a": entry("F32", [2**62 + 1], 0, 4)}, bytes(4), None, "overflows"),
    "shape_zero_times_huge": ({"a": entry("F32", [0, 2**62], 0, 0)}, b"", None, "overflows"),
    "number_of_5000_digits": (b'{"a":' + b"9" * 5000 + b"}", b"", None, "number 999"),
    "offsets_one": ({"a": {**A, "data_offsets": [0]}}, bytes(4), None, "data_offsets of 'a'"),
    "offsets_three": ({"a": {**A, "data_offsets": [0, 4, 8]}}, bytes(4), None, "data_offsets of 'a'"),
    "offsets_swapped": ({"a": entry("F32", [1], 4, 0)}, bytes(4), None, "data_offsets of 'a'"),
    "offsets_text": ({"a": {**A, "data_offsets": "04"}}, bytes(4), None, "data_offsets of 'a'"),
    "offsets_of_text": ({"a": {**A, "data_offsets": ["0", "4"]}}, bytes(4), None, "data_offsets of 'a'"),
    "offsets_of_bools": ({"a": entry("U8", [1], False, True)}, bytes(1), None, "data_offsets of 'a'"),
    "offsets_negative": ({"a": entry("F32", [1], -4, 0)}, bytes(4), None, "number -4"),
    "offsets_past_u64": ({"a": entry("F32", [1], 2**64, 2**64 + 4)}, bytes(4), None, "only whole numbers"),
    "size_too_small": ({"a": entry("F32", [2], 0, 4)}, bytes(4), None, "'a' needs 8 bytes"),
    "size_too_large": ({"a": entry("F32", [1], 0, 8)}, bytes(8), None, "'a' needs 4 bytes"),
    "overlap": ({"a": A, "b": A}, bytes(4), None, "overlaps"),
    "overlap_partly": ({"a": entry("F32", [2], 0, 8), "b": B}, bytes(8), None, "'b' overlaps that of 'a'"),
    "hole": ({"a": A, "b": entry("F32", [1], 8, 12)}, bytes(12), None, "hole after that of 'a'"),
    "hole_at_start": ({"b": B}, bytes(8), None, "hole after"),
    "trailing_bytes": ({"a": A}, bytes(7), None, "3 bytes after the last tensor"),
    "truncated_data": ({"a": A, "b": B}, bytes(5), None, "3 bytes short"),
    "no_data_at_all": ({"a": A}, b"", None, "4 bytes short"),
    "header_only_extra": ({}, bytes(1), None, "1 bytes after"),
    "name_empty": ({"": A}, bytes(4), None, "tensor name"),
    "name_too_long": ({"n" * 513: A}, bytes(4), None, "tensor name"),
    "name_control_character": ({"a\x1b[31m": A}, bytes(4), None, "tensor name"),
    "name_nul": ({"a\x00": A}, bytes(4), None, "tensor name"),
    "name_half_surrogate": (
        b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
        None,
        "tensor name",
    ),
    "metadata_number": ({"__metadata__": {"a": 1}}, b"", None, "__metadata__"),
    "metadata_list": ({"__metadata__": []}, b"", None, "__metadata__"),
    "metadata_null": ({"__metadata__": None}, b"", None, "__metadata__"),
    "metadata_half_surrogate": (b'{"__metadata__":{"a":"\\udc00"}}', b"", None, "surrogate"),
}


@pytest.mark.parametrize("case", BAD)
def test_malformed_file_is_one_clear_error(craft: Craft, case: str) -> None:
    header, data, length, said = BAD[case]
    path = craft(header, data, length)
    with pytest.raises(CheckpointError, match=re.escape(said)) as error:
        open_safetensors(path)
    assert str(path) in error.value.message
    assert error.value.hint


WRONG_FILES = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git-lfs pointer"),
    "html": (b"<!DOCTYPE html><html><body>403</body></html>", "HTML page"),
    "html_with_space": (b"\n  <HTML><head>", "HTML page"),
    "xml": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "XML page"),
    "empty": (b"", "empty"),
    "one_byte": (b"x", "not a safetensors file"),
    "zeros": (bytes(4096), "never written"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(100), "GGUF"),
    "zip": (b"PK\x03\x04" + bytes(100), "zip archive"),
    "pickle": (b"\x80\x02}q\x00." + bytes(20), "pickle"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "gzip"),
    "server_error": (b'{"error":"Repository not found"}', "message of a server"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_other_kinds_of_file_are_named(tmp_path: Path, case: str) -> None:
    content, said = WRONG_FILES[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as error:
        open_safetensors(path)
    assert str(path) in error.value.message


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path, "regular"),
        (tmp_path / "pipe", "regular"),
        (Path("/dev/zero"), "regular"),
        (tmp_path / "no", "exist"),
    ):
        with pytest.raises(CheckpointError, match=said):
            open_safetensors(path)
    with pytest.raises(CheckpointError, match="usable path"):
        open_safetensors("a\0b")


def test_every_cut_of_a_good_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    save_file({"a": torch.arange(6, dtype=torch.float32), "b": torch.ones(3, dtype=torch.uint8)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            open_safetensors(path)


def test_a_file_that_shrinks_after_opening_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    save_file({"a": torch.zeros(100_000)}, path)
    with open_safetensors(path) as file:
        os.truncate(path, 5000)
        with pytest.raises(CheckpointError, match="became shorter"):
            file.read("a")


def test_unknown_tensor(craft: Craft) -> None:
    with open_safetensors(craft({"a": A}, bytes(4))) as file, pytest.raises(CheckpointError, match="no tensor 'b'"):
        file.read("b")


def test_header_padding_and_metadata(craft: Craft) -> None:
    header = json.dumps({"__metadata__": {"format": "pt", "ü": "✓"}, "a": A}).encode() + b"    "
    with open_safetensors(craft(header, b"\0\0\x80?")) as file:
        assert file.metadata == {"format": "pt", "ü": "✓"}
        assert file.read("a").tolist() == [1.0]


def test_the_longest_name_and_the_largest_shape(craft: Craft) -> None:
    """Exactly at the limits a header is read: 512 characters, 2**48 elements (of which none is stored), 8 sizes."""
    header = {"n" * 512: entry("U8", [2**48, 0], 0, 0), "eight": entry("U8", [1] * 8, 0, 1)}
    with open_safetensors(craft(header, bytes(1))) as file:
        assert file.info("n" * 512).shape == (2**48, 0)
        assert file.read("n" * 512).shape == (2**48, 0)
    with pytest.raises(CheckpointError, match="overflows"):
        open_safetensors(craft({"a": entry("U8", [2**48 + 1, 0], 0, 0)}))


def test_limits_are_inside_what_models_need(craft: Craft) -> None:
    many: dict[str, Any] = {f"t{i}": entry("U8", [1], i, i + 1) for i in range(MAX_TENSORS)}
    with open_safetensors(craft(many, bytes(MAX_TENSORS))) as file:
        assert len(file.names()) == MAX_TENSORS
    many["last"] = entry("U8", [0], MAX_TENSORS, MAX_TENSORS)
    with pytest.raises(CheckpointError, match=r"more than|at most"):
        open_safetensors(craft(many, bytes(MAX_TENSORS)))


DTYPES = [getattr(torch, name) for name in TORCH_NAMES.values()]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7, 3), (0, 5), (2, 1, 3, 1, 2)], ids=str)
def test_every_dtype_and_shape_reads_as_the_reference_reader_does(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    raw = torch.arange(max(1, torch.Size(shape).numel()) * 8, dtype=torch.uint8) % 2  # 0 and 1: valid for bool too
    tensor = raw.view(dtype)[: torch.Size(shape).numel()].reshape(shape).clone()
    save_file({"x": tensor}, tmp_path / "x.safetensors")
    with open_safetensors(tmp_path / "x.safetensors") as file:
        read, info = file.read("x"), file.info("x")
    assert (read.dtype, tuple(read.shape)) == (dtype, shape) == (info.torch_dtype, info.shape)
    assert info.nbytes == tensor.nbytes
    assert bytes(read.reshape(-1).view(torch.uint8).tolist()) == bytes(tensor.reshape(-1).view(torch.uint8).tolist())


SIZES = st.lists(st.integers(0, 5), max_size=4)
TENSORS = st.dictionaries(
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=20).filter(
        lambda name: name != "__metadata__" and name.isprintable()
    ),
    st.tuples(st.sampled_from(["U8", "F16", "BF16", "F32", "I64", "F8_E4M3"]), SIZES),
    max_size=6,
)
WIDTH = {"U8": 1, "F16": 2, "BF16": 2, "F32": 4, "I64": 8, "F8_E4M3": 1}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors=TENSORS, order=st.randoms(use_true_random=False), data=st.randoms(use_true_random=False))
def test_header_order_and_data_order_may_differ(craft: Craft, tensors: Any, order: Any, data: Any) -> None:
    placed: dict[str, Any] = {}
    names, position = list(tensors), 0
    data.shuffle(names)
    for name in names:
        dtype, shape = tensors[name]
        size = torch.Size(shape).numel() * WIDTH[dtype]
        placed[name] = entry(dtype, shape, position, position + size)
        position += size
    listed = list(placed)
    order.shuffle(listed)
    path = craft({name: placed[name] for name in listed}, data.randbytes(position))
    expected = load_file(path)
    with open_safetensors(path) as file:
        assert file.names() == listed
        for name in listed:
            ours, theirs = file.read(name), expected[name]
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
            assert torch.equal(ours.reshape(-1).view(torch.uint8), theirs.reshape(-1).view(torch.uint8))
