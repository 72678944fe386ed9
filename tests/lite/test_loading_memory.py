"""Loading a model never holds two copies of it: the peak is the model and one tensor, as the kernel counts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hvlite.lite.models.transformer import HunyuanVideoTransformer
from hvlite.quantize.architecture import TransformerConfig

CONFIG = TransformerConfig(
    hidden_size=512,
    heads_num=4,
    mm_double_blocks_depth=6,
    mm_single_blocks_depth=4,
    rope_dim_list=(16, 56, 56),
    text_states_dim=64,
    text_states_dim_2=64,
)

MEASURE = """
import resource, sys, torch
from hvlite import load_transformer
torch.zeros(1) @ torch.zeros(1)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
model = load_transformer(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
size = sum(p.numel() * p.element_size() for p in model.parameters())
print(peak() - before, size)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "transformer.safetensors"
    torch.manual_seed(0)
    model = HunyuanVideoTransformer(CONFIG)
    save_file({name: value.bfloat16().contiguous() for name, value in model.state_dict().items()}, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_peak_is_one_copy(checkpoint, dtype):
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(checkpoint), dtype], capture_output=True, text=True, check=True
    )
    grown, size = (int(word) for word in run.stdout.split())
    assert size > 100 << 20, "too small to tell a copy from noise"
    assert grown < 1.2 * size, f"{grown / size:.2f} times the model"
