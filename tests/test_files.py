from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvlite import files
from hvlite.errors import CheckpointError, DiskError
from hvlite.files import AtomicFile, make_folder, parse_json, read_json, safe_member, sha256_file, write_atomic

WRITING = ("open", "fsync", "replace")


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".part"))


def test_writing_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomic(path, b"old and longer")
    write_atomic(path, (bytes([number]) for number in range(256)))
    assert path.read_bytes() == bytes(range(256))
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with AtomicFile(path) as out:
        out.write(bytes(8))
        out.write(b"body")
        out.sync()
        assert not path.exists()
        out.overwrite(0, b"12345678")
        out.write(b"!")
        assert out.tell() == 13
    assert path.read_bytes() == b"12345678body!"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_leaves_the_old_file_and_no_part(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def chunks() -> Iterator[bytes]:
        yield b"new"
        raise error

    with pytest.raises(error):
        write_atomic(path, chunks())
    assert path.read_bytes() == b"old"
    assert parts(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", WRITING)
def test_every_failing_call_is_a_disk_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, call, fail)
        with pytest.raises(DiskError) as error:
            write_atomic(path, b"new")
    assert str(path) in error.value.message
    assert error.value.hint
    assert parts(tmp_path) == []
    assert path.read_bytes() == b"old"


def test_a_full_device_is_a_disk_error(tmp_path: Path) -> None:
    """A real ENOSPC, at the flush, through a tmp file that stands for /dev/full."""
    out = AtomicFile(tmp_path / "a")
    out._file.close()
    out._file = open("/dev/full", "w+b")  # noqa: SIM115 - AtomicFile closes it
    with pytest.raises(DiskError, match="No space left") as error, out:
        out.write(b"x" * 100_000)
    assert "free some space" in str(error.value)
    assert os.listdir(tmp_path) == []


def test_folders_that_cannot_be_written_to(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path / "no" / "a", "does not exist"),
        (tmp_path / ("n" * 300) / "a", "shorter name"),
        (Path("/proc/a"), "cannot write"),
    ):
        with pytest.raises(DiskError, match=said):
            write_atomic(path, b"")
    with pytest.raises(DiskError):
        write_atomic(tmp_path, b"the target is a folder")
    assert parts(tmp_path) == []


def test_what_is_on_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that survives a power loss: the bytes are synced, then the name changes, then the folder is synced."""
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{fd}") else f"file of {os.fstat(fd).st_size}"
        calls.append(f"sync {kind}")
        real_fsync(fd)

    def replace(source: Path, target: Path) -> None:
        calls.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", replace)
    write_atomic(tmp_path / "a", b"12345")
    assert calls == ["sync file of 5", "rename", "sync folder"]


def test_names_are_short_whatever_the_targets(tmp_path: Path) -> None:
    name = "n" * 255
    write_atomic(tmp_path / name, b"x")
    assert (tmp_path / name).read_bytes() == b"x"


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hvlite" * 100_000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"hvlite" * 100_000).hexdigest()
    with pytest.raises(CheckpointError, match="does not exist"):
        sha256_file(tmp_path / "b")
    with pytest.raises(CheckpointError, match="regular"):
        sha256_file(tmp_path)


GOOD_JSON: list[tuple[bytes, Any]] = [
    (b'{"a": [1, 2.5, null, true, "\xc3\xbc"]}', {"a": [1, 2.5, None, True, "ü"]}),
    (b" 3 ", 3),
    (b"[]", []),
]


@pytest.mark.parametrize(("text", "value"), GOOD_JSON)
def test_json(tmp_path: Path, text: bytes, value: Any) -> None:
    (tmp_path / "a.json").write_bytes(text)
    assert read_json(tmp_path / "a.json") == value == parse_json(text)


BAD_JSON = {
    "empty": b"",
    "nothing": b"   ",
    "cut": b'{"a": ',
    "two": b"{} {}",
    "comma": b"[1,]",
    "single_quotes": b"{'a': 1}",
    "comment": b"{} // x",
    "latin1": b'"\xfc"',
    "utf16": '{"a": 1}'.encode("utf-16"),
    "bom": b"\xef\xbb\xbf{}",
    "nan": b"[NaN]",
    "infinity": b"[-Infinity]",
    "float_overflow": b"[1e999]",
    "key_twice": b'{"a": 1, "a": 1}',
    "key_twice_inside": b'[{"a": {"b": 1, "b": 2}}]',
    "deep": b"[" * 100_000,
    "deep_objects": b'{"a":' * 50_000,
    "digits": b"9" * 10_000,
    "control_character": b'"\x01"',
    "half_escape": b'"\\u12"',
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_json_that_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(BAD_JSON[case])
    with pytest.raises(CheckpointError, match="not valid JSON") as error:
        read_json(path)
    assert str(path) in error.value.message


def test_json_limits(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[" * 64 + b"1" + b"]" * 64)
    read_json(path)
    path.write_bytes(b"[" * 65 + b"1" + b"]" * 65)
    with pytest.raises(CheckpointError, match="more than 64 levels"):
        read_json(path)
    path.write_bytes(b"[" + b" " * 100 + b"]")
    with pytest.raises(CheckpointError, match="larger than 50 bytes"):
        read_json(path, limit_bytes=50)
    with pytest.raises(CheckpointError, match="larger than"):
        read_json(path, limit_bytes=101)


def test_safe_member(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x")
    assert safe_member(tmp_path, "a.txt") == tmp_path / "a.txt"
    for name in ("../a.txt", "/a.txt", "", ".", "..", "a\0", "b/a.txt", "a\\b", "C:a", None, 5, "n" * 256, "a\n"):
        with pytest.raises(CheckpointError, match="plain name"):
            safe_member(tmp_path, name)
    with pytest.raises(CheckpointError, match=r"a\.json is missing"):
        safe_member(tmp_path, "a.json")


def test_importing_files_imports_no_torch() -> None:
    program = "import hvlite.files, sys; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, said in (
        (tmp_path / ("n" * 300) / "a", "shorter name"),
        (tmp_path / "file" / "a", "cannot write"),
        (tmp_path / "file", "is a file"),
    ):
        with pytest.raises(DiskError, match=said):
            make_folder(path)
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
