"""Says what a file is that is not the weights file it was taken for, from its first bytes."""

from __future__ import annotations

from pathlib import Path

from ...errors import CheckpointError
from .locate import WEIGHT_SUFFIXES

MAGIC_BYTES = 64
REDOWNLOAD = "download the file again"

_GIVE_WEIGHTS = "give a weights file (.safetensors, .pt) or the model's folder"
_LFS = "`git lfs pull` fetches the real file"
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer, not the weights themselves", _LFS),
    (b"<!doctype", "an HTML page, not weights: the download was refused or redirected", REDOWNLOAD),
    (b"<html", "an HTML page, not weights: the download was refused or redirected", REDOWNLOAD),
    (b"<?xml", "an XML page, not weights: the download was refused", REDOWNLOAD),
    (b"gguf", "a GGUF file, which is not read", "use the safetensors or the official .pt file of the same model"),
    (b"pk\x03\x04", "a zip archive", "if torch.save wrote it, give it the extension .pt"),
    (b"pk\x05\x06", "an empty zip archive", REDOWNLOAD),
    (b"\x89hdf\r\n", "an HDF5 file", "use the safetensors or the official .pt file"),
    (b"\x1f\x8b", "gzip-compressed", "unpack it first"),
    (b"bzh", "bzip2-compressed", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"\x80\x02\x8a\x0al\xfc", "a torch file of before version 1.6", "load and save it again with a current torch"),
    (b"\x80\x02", "a bare pickle, which is never executed", "use the safetensors or the official .pt file"),
    (b"\x80\x04", "a bare pickle, which is never executed", "use the safetensors or the official .pt file"),
    (b'{"error', "an error message of a server, not weights", REDOWNLOAD),
)


def describe_magic(head: bytes) -> tuple[str, str] | None:
    """What a file that starts with `head` is, and what to do about it; None where nothing known starts like that."""
    if not head:
        return "empty", REDOWNLOAD
    if not head.strip(b"\0"):
        return "all zero bytes at its start: it was never written completely", REDOWNLOAD
    if head[5:9] == b"\0\0\0{":
        return "a safetensors file", "give it the extension .safetensors"
    start = head.lstrip().lower()
    for magic, what, hint in _KINDS:
        if start.startswith(magic) or head.startswith(magic):
            return what, hint
    return None


def wrong_file(path: Path, head: bytes, expected: str) -> CheckpointError:
    """The error for a file that is not `expected` ("a safetensors file"): says what it is, where that is known."""
    unknown = REDOWNLOAD if path.suffix in WEIGHT_SUFFIXES else _GIVE_WEIGHTS
    what, hint = describe_magic(head) or (f"not {expected}", unknown)
    return CheckpointError(f"{path} is {what}", hint=hint)
