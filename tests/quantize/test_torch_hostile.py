"""Hostile `.pt` files: each is one CheckpointError, and none makes the process import, run or connect to anything."""

from __future__ import annotations

import builtins
import collections
import io
import os
import pickle
import pickletools
import runpy
import struct
import subprocess
import sys
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hvlite.errors import CheckpointError
from hvlite.quantize.readers.torch_file import open_torch

CraftPt = Callable[..., Path]
FORBIDDEN = (
    "os.",
    "subprocess.",
    "socket.",
    "exec",
    "compile",
    "import",
    "ctypes.",
    "shutil.",
    "webbrowser.",
    "pickle.",
    "urllib.",
)
EVENTS: list[str] | None = None


def _record(event: str, _: object) -> None:
    if EVENTS is not None and event.startswith(FORBIDDEN):
        EVENTS.append(event)


sys.addaudithook(_record)  # cannot be removed; it only compares while EVENTS is a list


@pytest.fixture
def audited() -> Iterator[list[str]]:
    global EVENTS
    EVENTS = []
    yield EVENTS
    EVENTS = None


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class State:
    """Pickles as an object whose state is set."""

    def __init__(self) -> None:
        self.x = 1


def refer(module: str, name: str) -> bytes:
    """A pickle that only names something."""
    return b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n."


GADGETS: dict[str, bytes] = {
    "os_system": pickle.dumps(Call(os.system, "touch canary"), 2),
    "posix_system_by_name": refer("posix", "system"),
    "subprocess_popen": pickle.dumps(Call(subprocess.Popen, ["touch", "canary"]), 2),
    "eval": pickle.dumps(Call(eval, "open('canary','w')"), 2),
    "exec": pickle.dumps(Call(exec, "open('canary','w')"), 2),
    "open": pickle.dumps(Call(open, "canary", "w"), 2),
    "io_open": pickle.dumps(Call(io.open, "canary", "w"), 4),
    "import": pickle.dumps(Call(builtins.__import__, "antigravity"), 2),
    "getattr": pickle.dumps(Call(getattr, Call(list), "append"), 4),
    "runpy": pickle.dumps(Call(runpy.run_path, "canary.py"), 2),
    "webbrowser": pickle.dumps(Call(webbrowser.open, "http://localhost"), 2),
    "pickle_loads": pickle.dumps(Call(pickle.loads, b"."), 2),
    "torch_load": pickle.dumps(Call(torch.load, "canary"), 2),
    "torch_hub": refer("torch.hub", "load"),
    "torch_jit": refer("torch.jit", "load"),
    "torch_compile": refer("torch", "compile"),
    "torch_storage_load": refer("torch.storage", "_load_from_bytes"),
    "numpy_reconstruct": refer("numpy.core.multiarray", "_reconstruct"),
    "numpy_scalar": refer("numpy.core.multiarray", "scalar"),
    "codecs_encode": refer("_codecs", "encode"),
    "argparse_namespace": refer("argparse", "Namespace"),
    "functools_partial": refer("functools", "partial"),
    "operator_attrgetter": refer("operator", "attrgetter"),
    "ctypes": refer("ctypes", "CDLL"),
    "dotted_way_round": b"\x80\x04\x8c\x05torch\x8c\x16_utils._rebuild_tensor\x93.",
    "dunder_of_allowed": b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
    "allowed_name_of_other_module": refer("os", "OrderedDict"),
    "global_with_dots": refer("collections.OrderedDict", "__subclasses__"),
    "stack_global_of_numbers": b"\x80\x04K\x01K\x02\x93.",
    "counter": pickle.dumps(collections.Counter("aab"), 2),
    "a_class_instance": pickle.dumps(State(), 2),
    "ordered_dict_with_items_argument": b"\x80\x02ccollections\nOrderedDict\n]q\x00\x85R.",
    "call_of_a_string": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "call_of_a_dtype": b"\x80\x02ctorch\nfloat32\n)R.",
    "rebuild_of_a_rebuild": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\nq\x00"
    b"(h\x00ctorch\nTensor\n(h\x00ctorch\nTensor\n)}t}tR.",
    "rebuild_without_storage": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00)))tR.",
    "rebuild_with_too_few": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "persistent_id_of_a_path": b"\x80\x02X\x0b\x00\x00\x00/etc/passwdQ.",
    "persistent_id_of_a_dtype": b"\x80\x02(X\x07\0\0\0storagectorch\nfloat32\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ.",
    "persistent_id_as_text": b"\x80\x02P/etc/passwd\n.",
    "inst": b"(S'touch canary'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nX\x05\x00\x00\x00toucho.",
    "newobj": pickle.dumps(State(), 4),
    "extension_registry": b"\x80\x02\x82\x01.",
    "build_on_a_list": b"\x80\x02]}b.",
    "build_on_a_tensor_class": b"\x80\x02ctorch\nfloat32\n}b.",
}
DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "only_stop": b".",
    "no_stop": b"\x80\x02}",
    "stops_with_mark": b"\x80\x02(.",
    "leaves_two_values": b"\x80\x02}}.",
    "stops_with_nothing": b"\x80\x02.",
    "state_dict_below_another_value": b"\x80\x02}}X\x01\x00\x00\x00aNs.",
    "mark_in_memo": b"\x80\x02(q\x00h\x00.",
    "memo_of_nothing": b"\x80\x02q\x00.",
    "pops_nothing": b"\x80\x02t.",
    "missing_memo": b"\x80\x02h\x07.",
    "huge_memo_index": b"\x80\x02}r\xff\xff\xff\xff.",
    "text_longer_than_file": b"\x80\x02X\xff\xff\xff\xffabc.",
    "text_of_2_63_bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"a.",
    "bytes_of_2_60": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"a.",
    "long_of_2_gigabytes": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "long_of_a_kilobyte": b"\x80\x02\x8b\x00\x04\x00\x00" + bytes(1024) + b".",
    "not_utf8": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
    "newer_protocol": b"\x80\x09}.",
    "unknown_instruction": b"\x80\x02\xf7.",
    "name_without_end": b"\x80\x02ctorch" + b"a" * 5000,
    "odd_number_of_items": b"\x80\x02}(K\x01u.",
    "items_into_a_list": b"\x80\x02](K\x01K\x02u.",
    "appends_to_a_dict": b"\x80\x02}K\x01a.",
    "mark_as_value": b"\x80\x02}K\x01(s.",
    "list_as_key": b"\x80\x02}]K\x01s.",
    "tuple_as_key": b"\x80\x02})K\x01s.",
    "key_twice": b"\x80\x02}X\x01\x00\x00\x00aK\x01sX\x01\x00\x00\x00aK\x01s.",
    "a_number": b"\x80\x02K\x05.",
    "an_empty_dict": b"\x80\x02}.",
    "a_dict_of_numbers": b"\x80\x02}X\x01\x00\x00\x00aK\x05s.",
    "number_as_name": b"\x80\x02}K\x01K\x05s.",
    "nested_10000_tuples": b"\x80\x02)" + b"\x85" * 10_000 + b".",
    "doubling_tuples": b"\x80\x02)" + b"q\x00h\x00\x86" * 5000 + b".",
    "dict_in_itself": b"\x80\x02}q\x00X\x06\x00\x00\x00moduleh\x00s.",
    "endless_none": b"\x80\x02" + b"N" * 400_000 + b".",
}


@pytest.mark.parametrize("case", [*GADGETS, *DAMAGED])
def test_hostile_pickle_is_refused_and_runs_nothing(
    craft_pt: CraftPt, audited: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = craft_pt((GADGETS | DAMAGED)[case])
    audited.clear()
    with pytest.raises(CheckpointError) as error:
        open_torch(path)
    assert audited == []
    assert str(path) in error.value.message
    assert error.value.hint
    assert not list(tmp_path.glob("canary*"))


def test_the_audit_would_notice(audited: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    audited.clear()
    pickle.loads(GADGETS["os_system"])
    assert audited
    assert (tmp_path / "canary").exists()


def test_gadgets_are_what_they_claim() -> None:
    """The pickles are well-formed programs up to their end, so that they are refused for what they do."""
    for case, program in GADGETS.items():
        assert list(pickletools.genops(program))[-1][0].name == "STOP", case
