"""A block's file: one read into one flat buffer, typed views, and every way it can go wrong while it is in use."""

from __future__ import annotations

import os
import shutil
import threading

import psutil
import pytest
import torch
from safetensors.torch import load_file

from hvlite.errors import CheckpointError
from hvlite.lite.streaming.block_files import BlockFile, open_block_files
from hvlite.lite.streaming.streamed_blocks import StreamOptions
from hvlite.lite.streaming.streamed_transformer import open_streamed_transformer
from hvlite.lite.streaming.tiers import TierCounts
from hvlite.lite.streaming.transformer_blocks import LoadedTransformer
from hvlite.quantize.format import open_hvlite_transformer
from hvlite.quantize.readers.safetensors_file import open_safetensors
from hvlite.quantize.scheme import SCHEMES
from hvlite.quantize.writer import make_header, tensor_info

CPU = torch.device("cpu")
BLOCKS = 8


@pytest.fixture
def model(folder, tmp_path):
    """A copy of the fp8 folder, to be damaged."""
    return shutil.copytree(folder("fp8"), tmp_path / "model")


def open_files(root) -> list[BlockFile]:
    with open_hvlite_transformer(root) as source:
        return open_block_files(source)


@pytest.mark.parametrize("scheme", ["fp8", "int8", "bf16"])
def test_views_are_the_tensors_of_the_file(folder, scheme):
    """Compared with the safetensors library: every tensor once, with its type, shape and values; nothing else."""
    for file in open_files(folder(scheme)):
        flat = torch.full((file.nbytes + 5,), 0xAB, dtype=torch.uint8)
        file.fill(flat)
        assert flat[file.nbytes :].tolist() == [0xAB] * 5
        views, expected = file.layout.views(flat), load_file(file.path)
        assert {f"{file.name}.{name}" for name in views} == expected.keys()
        for name, view in views.items():
            theirs = expected[f"{file.name}.{name}"]
            assert (view.dtype, view.shape) == (theirs.dtype, theirs.shape)
            assert torch.equal(view.view(torch.uint8), theirs.view(torch.uint8))
            assert view.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()


def test_blocks_of_a_kind_have_one_layout(folder):
    files = open_files(folder("fp8"))
    assert len({file.layout for file in files}) == 2
    assert [file.name for file in files[:4]] == [*(f"double_blocks.{i}" for i in range(3)), "single_blocks.0"]


def test_nothing_of_the_modulation_is_streamed(folder):
    names = [tensor.name for file in open_files(folder("fp8")) for tensor in file.layout.tensors]
    assert not [name for name in names if "mod" in name]


def shorten(path) -> None:
    os.truncate(path, path.stat().st_size - 7)


def replace_file(path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


def overwrite(path) -> None:
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(1, 1))


FAULTS = {
    "removed": (os.remove, "does not exist"),
    "shortened": (shorten, "was changed while it was in use"),
    "replaced": (replace_file, "was changed while it was in use"),
    "rewritten": (overwrite, "was changed while it was in use"),
    "made a folder": (lambda path: (path.unlink(), path.mkdir()), "is not a regular file"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("ring", [1, 3])
def test_a_file_that_goes_wrong_in_mid_run_ends_the_step(model, latents_of, fault, ring):
    """The thread's error arrives on the main thread as itself, never a hang; nothing is left open."""
    threads, descriptors = threading.active_count(), psutil.Process().num_fds()
    harm, message = FAULTS[fault]
    options = StreamOptions(ring=ring)
    transformer = open_streamed_transformer(model, CPU, torch.float32, tiers=TierCounts(1, 0, 7), options=options)
    latents_of(transformer)
    harm(model / "transformer" / "single_blocks.03.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        two_passes(transformer)
    assert "single_blocks.03" in str(caught.value)
    transformer.close()
    assert (threading.active_count(), psutil.Process().num_fds()) == (threads, descriptors)


def two_passes(transformer: LoadedTransformer) -> None:
    """What was read ahead may still be good for the first."""
    for _ in range(2):
        list(transformer.blocks.each())


def test_a_file_that_comes_back_goes_on(model, latents_of):
    """An unplugged disk that is plugged in again: the next pass works, with the same bits."""
    transformer = open_streamed_transformer(model, CPU, torch.float32, tiers=TierCounts(0, 0, BLOCKS))
    before = latents_of(transformer)
    path = model / "transformer" / "double_blocks.01.safetensors"
    path.rename(path.with_suffix(".away"))
    with pytest.raises(CheckpointError, match="does not exist"):
        two_passes(transformer)
    path.with_suffix(".away").rename(path)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(latents_of(transformer), before, strict=True))
    transformer.close()


def test_a_file_cut_during_the_read(model, monkeypatch):
    """The check before the read cannot see it: the end comes early, and is an error."""
    file = open_files(model)[0]
    read = os.preadv

    def cut_then_read(fd, buffers, offset):
        os.truncate(file.path, 4096)
        return read(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", cut_then_read)
    with pytest.raises(CheckpointError, match="became shorter while it was read"):
        file.fill(torch.empty(file.nbytes, dtype=torch.uint8))


def test_closing_in_mid_pass_leaves_nothing(folder):
    threads, descriptors = threading.active_count(), psutil.Process().num_fds()
    for used in range(BLOCKS):
        transformer = open_streamed_transformer(folder("fp8"), CPU, torch.float32, tiers=TierCounts(0, 0, BLOCKS))
        blocks = transformer.blocks.each()
        for _ in range(used):
            next(blocks)
        transformer.close()
        transformer.close()
    assert (threading.active_count(), psutil.Process().num_fds()) == (threads, descriptors)


def test_a_forgotten_transformer_ends_its_thread(folder):
    threads = threading.active_count()
    transformer = open_streamed_transformer(folder("fp8"), CPU, torch.float32, tiers=TierCounts(0, 0, BLOCKS))
    list(transformer.blocks.each())
    assert threading.active_count() == threads + 1
    (thread,) = [each for each in threading.enumerate() if each.name == "hvlite block reader"]
    del transformer
    thread.join(timeout=20)
    assert not thread.is_alive()


def write_block(path, tensors: dict[str, torch.Tensor]) -> None:
    """A safetensors file whose tensors lie in the order given."""
    header = make_header({name: tensor_info(tensor) for name, tensor in tensors.items()})
    data = b"".join(tensor.view(torch.uint8).numpy().tobytes() for tensor in tensors.values())
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def test_a_view_that_would_be_misaligned_is_refused(tmp_path):
    path = tmp_path / "block.safetensors"
    bias, weight = torch.zeros(3, dtype=torch.int8), torch.zeros(2)
    write_block(path, {"single_blocks.0.a.weight": bias, "single_blocks.0.b.bias": weight})
    with pytest.raises(CheckpointError, match=r"b\.bias does not start on a multiple of its element size"):
        BlockFile.open(path, "single_blocks.0", {"a.weight": SCHEMES["fp32"], "b.bias": SCHEMES["fp32"]})


@pytest.mark.parametrize(
    "keys",
    [
        ["single_blocks.0.a.weight"],
        ["single_blocks.0.a.weight", "single_blocks.0.b.bias", "single_blocks.1.a.weight"],
        ["single_blocks.0.a.weight", "single_blocks.0.b.bias", "single_blocks.0.c"],
    ],
    ids=["one is missing", "one of another block", "one too many"],
)
def test_a_file_holds_one_whole_block(tmp_path, keys):
    path = tmp_path / "block.safetensors"
    write_block(path, {key: torch.zeros(2) for key in keys})
    with pytest.raises(CheckpointError, match=r"should hold the tensors of single_blocks\.0 and nothing else"):
        BlockFile.open(path, "single_blocks.0", {"a.weight": SCHEMES["fp32"], "b.bias": SCHEMES["fp32"]})


@pytest.mark.parametrize(("value", "message"), [(torch.nan, "not finite"), (0.0, "positive"), (-1.0, "positive")])
def test_a_damaged_scale_is_found_before_the_first_step(model, value, message):
    path = model / "transformer" / "single_blocks.02.safetensors"
    with open_safetensors(path) as file:
        offset = file.offset("single_blocks.2.linear2.weight_scale")
    with path.open("r+b") as raw:
        raw.seek(offset)
        raw.write(torch.tensor(value).numpy().tobytes())
    with pytest.raises(CheckpointError, match=rf"single_blocks\.02.*{message}"):
        open_files(model)
