"""Makers of files for the reader tests: plain ones through the libraries people use, crafted ones byte by byte."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

Header = dict[str, object] | bytes
State = dict[str, torch.Tensor]


@pytest.fixture
def craft(tmp_path: Path) -> Callable[..., Path]:
    """craft(header, data, length=None): a safetensors file of exactly these parts; `length` lies about the header's."""

    def make(header: Header, data: bytes = b"", length: int | None = None) -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / "crafted.safetensors"
        path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
        return path

    return make


@pytest.fixture(scope="session")
def transformer_state(golden: Path) -> State:
    """The golden transformer's tensors under their official names, bf16. Not to be changed in place."""
    return load_file(golden / "dit" / "dit_official.safetensors")


@pytest.fixture(scope="session")
def vae_state(golden: Path) -> State:
    """The golden VAE's tensors, fp16."""
    return load_file(golden / "ckpts_diffusers" / "vae" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="session")
def manifests() -> Path:
    """Names and shapes of the released checkpoints."""
    return Path(__file__).parent.parent / "data" / "manifests"


@pytest.fixture
def craft_pt(tmp_path: Path) -> Callable[..., Path]:
    """craft_pt(pickle, storages): a `.pt` file with this pickle and these entries under data/; more entries by name."""

    def make(
        pickle: bytes,
        storages: dict[str, bytes] | None = None,
        more: dict[str, bytes] | None = None,
        compress: bool = False,
    ) -> Path:
        path = tmp_path / "crafted.pt"
        entries = {"x/data.pkl": pickle, "x/byteorder": b"little", "x/version": b"3\n", **(more or {})}
        entries |= {f"x/data/{key}": data for key, data in (storages or {}).items()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
        return path

    return make
