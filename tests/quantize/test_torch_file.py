from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from hvlite.errors import CheckpointError
from hvlite.quantize.readers.torch_file import open_torch

FILES = (
    "ckpts_official/hunyuan-video-t2v-720p/transformers/mp_rank_00_model_states.pt",
    "ckpts_official/hunyuan-video-t2v-720p/vae/pytorch_model.pt",
    "fp8/mp_rank_00_model_states_fp8.pt",
    "fp8/mp_rank_00_model_states_fp8_map.pt",
)
DTYPES = [
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "float8_e4m3fn",
    "float8_e5m2",
]


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    theirs = theirs.detach().contiguous()
    bits = [tensor.reshape(-1).view(torch.uint8) for tensor in (ours, theirs)]
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and torch.equal(*bits)


@pytest.mark.parametrize("name", FILES)
def test_golden_files_read_as_torch_reads_them(golden: Path, name: str) -> None:
    expected = torch.load(golden / name, weights_only=True)
    expected = expected.get("module", expected)
    with open_torch(golden / name) as file:
        assert file.names() == list(expected)
        for key, tensor in expected.items():
            assert same(file.read(key), tensor), key
            assert file.info(key).nbytes == tensor.nbytes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4)], ids=str)
def test_every_dtype(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    tensor = (torch.arange(torch.Size(shape).numel()) % 2).to(getattr(torch, dtype)).reshape(shape)
    torch.save({"x": tensor}, tmp_path / "x.pt")
    with open_torch(tmp_path / "x.pt") as file:
        assert same(file.read("x"), tensor)


def test_views_are_read_with_their_strides(tmp_path: Path) -> None:
    base = torch.arange(240, dtype=torch.float32).reshape(12, 20)
    views = {
        "base": base,
        "transposed": base.t(),
        "rows": base[3:7],
        "columns": base[:, 5:9],
        "step": base[::3, ::4],
        "permuted": base.reshape(2, 6, 20).permute(2, 0, 1),
        "one": base[7:8, 3:4],
        "channels_last": torch.arange(48.0).reshape(1, 3, 4, 4).to(memory_format=torch.channels_last),
        "row_again": base[0].expand(1, 20),
    }
    torch.save(views, tmp_path / "views.pt")
    with open_torch(tmp_path / "views.pt") as file:
        for name, view in views.items():
            read = file.read(name)
            assert same(read, view), name
            assert read.is_contiguous()


@pytest.mark.parametrize("key", ["module", "model", "state_dict", "ema", None])
@pytest.mark.parametrize("ordered", [True, False])
def test_wrappers(tmp_path: Path, key: str | None, ordered: bool) -> None:
    state = {"a": torch.ones(2), "b": torch.zeros(3)}
    state = OrderedDict(state) if ordered else state
    torch.save(
        {key: state, "step": 3, "args": {"lr": 0.1, "betas": (0.9, 0.99)}, "names": ["x"]} if key else state,
        tmp_path / "w.pt",
    )
    with open_torch(tmp_path / "w.pt") as file:
        assert file.names() == ["a", "b"]


def test_module_is_preferred_to_ema(tmp_path: Path) -> None:
    torch.save({"ema": {"a": torch.zeros(1)}, "module": {"a": torch.ones(1)}}, tmp_path / "w.pt")
    with open_torch(tmp_path / "w.pt") as file:
        assert file.read("a").item() == 1


def test_a_real_modules_state_dict_and_parameters(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    torch.save({"module": layer.state_dict()}, tmp_path / "state.pt")  # carries `_metadata`
    torch.save({"module": dict(layer.named_parameters())}, tmp_path / "parameters.pt")
    for name in ("state.pt", "parameters.pt"):
        with open_torch(tmp_path / name) as file:
            assert same(file.read("weight"), layer.weight)
            assert same(file.read("bias"), layer.bias)


def test_tensors_with_attributes(tmp_path: Path) -> None:
    plain, parameter = torch.arange(3.0), torch.nn.Parameter(torch.ones(2))
    plain.note = parameter.note = "x"  # type: ignore[attr-defined]
    torch.save({"module": {"plain": plain, "parameter": parameter}}, tmp_path / "x.pt")
    with open_torch(tmp_path / "x.pt") as file:
        assert same(file.read("plain"), plain)
        assert same(file.read("parameter"), parameter)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(tmp_path: Path, protocol: int) -> None:
    state = {
        f"t{index}": torch.full((2,), float(index)) for index in range(300)
    }  # past the short forms of memo indices
    torch.save({"module": state}, tmp_path / "x.pt", pickle_protocol=protocol)
    with open_torch(tmp_path / "x.pt") as file:
        assert all(same(file.read(name), tensor) for name, tensor in state.items())


def test_tied_weights_share_their_storage(tmp_path: Path) -> None:
    tied = torch.randn(4, 4)
    torch.save({"a": tied, "b": tied}, tmp_path / "x.pt")
    with open_torch(tmp_path / "x.pt") as file:
        assert same(file.read("a"), tied)
        assert same(file.read("b"), tied)


def test_reading_gives_memory_of_its_own(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(4)}, tmp_path / "x.pt")
    with open_torch(tmp_path / "x.pt") as file:
        file.read("a").fill_(7)
        assert file.read("a").sum() == 0
        with pytest.raises(CheckpointError, match="no tensor 'c'"):
            file.info("c")
