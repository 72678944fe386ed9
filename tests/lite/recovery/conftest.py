"""The golden tree as `hvlite quantize` writes it with unquantized blocks, to be damaged, starved and taken away."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hvlite.lite.config import GenerateConfig
from hvlite.quantize.convert import QuantizeOptions, run_quantize
from hvlite.quantize.readers.safetensors_file import open_safetensors

sys.path.insert(0, str(Path(__file__).parent))  # starvation.py

CONFIG = GenerateConfig(
    prompt="a fox on the ice",
    height=32,
    width=48,
    frames=5,
    steps=3,
    guidance_scale=6.0,
    flow_shift=7.0,
    seed=11,
    fps=8,
)


@pytest.fixture(scope="session")
def clean_model(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("model") / "bf16"
    run_quantize(
        QuantizeOptions(golden / "ckpts_diffusers", output, transformer="bf16", text_encoder="bf16", workers=1)
    )
    return output


@pytest.fixture
def model(clean_model: Path, tmp_path: Path) -> Path:
    """A copy that a test may do anything to."""
    return Path(shutil.copytree(clean_model, tmp_path / "model"))


@pytest.fixture
def quick_collections() -> Iterator[None]:
    """A collection looks at nothing that was there before: it is half of the time of a run that recovers."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def config() -> GenerateConfig:
    return CONFIG


@pytest.fixture
def set_weight() -> Callable[..., None]:
    """set_weight(file, name, value, count): the first elements of a tensor on disk become `value` (-1: all)."""

    def write(path: Path, name: str, value: float, count: int = 1) -> None:
        with open_safetensors(path) as file:
            offset, info = file.offset(name), file.info(name)
        data = torch.full(info.shape, value, dtype=info.torch_dtype).flatten()[: None if count < 0 else count]
        data = data.view(torch.uint8).numpy().tobytes()
        with path.open("r+b") as target:
            target.seek(offset)
            target.write(data)

    return write
