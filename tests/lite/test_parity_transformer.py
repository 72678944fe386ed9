"""The transformer against the official code: every activation of every block, from every checkpoint format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hvlite import load_transformer
from hvlite.lite.models.transformer import HunyuanVideoTransformer

LIMIT = 2e-5
CASES = ("c0", "c1", "c2")
OFFICIAL_FILE = "ckpts_official/hunyuan-video-t2v-720p/transformers/mp_rank_00_model_states.pt"


def run(model: HunyuanVideoTransformer, case: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(
            latents=case["in.x"],
            timestep=case["in.t"],
            guidance=case["in.guidance"],
            prompt_embeds=case["in.text_states"],
            prompt_mask=case["in.text_mask"],
            pooled_prompt_embeds=case["in.text_states_2"],
        )


@pytest.fixture(scope="module")
def official(golden: Path) -> HunyuanVideoTransformer:
    return load_transformer(golden / "ckpts_official", config=golden_config(golden, "dit/dit.json"))


def golden_config(golden: Path, name: str) -> dict[str, object]:
    return json.loads((golden / name).read_text())["config"]


@pytest.mark.parametrize("name", CASES)
def test_output_from_the_official_tree(golden, official, compare, name):
    case = load_file(golden / f"dit/dit_{name}.safetensors")
    compare(f"transformer {name}, official tree", run(official, case), case["out"], LIMIT)


@pytest.mark.parametrize("name", CASES)
def test_output_from_the_diffusers_tree(golden, compare, name):
    case = load_file(golden / f"dit/dit_{name}.safetensors")
    model = load_transformer(golden / "ckpts_diffusers")
    compare(f"transformer {name}, diffusers tree", run(model, case), case["out"], LIMIT)


def test_output_from_a_single_file(golden, compare):
    case = load_file(golden / "dit/dit_c0.safetensors")
    model = load_transformer(golden / "dit/dit_official.safetensors", config=golden_config(golden, "dit/dit.json"))
    compare("transformer c0, single file", run(model, case), case["out"], LIMIT)


@pytest.mark.parametrize("name", CASES)
def test_every_activation(golden, official, compare, name):
    """Hooks record what each module returns; padded text rows are not compared (nothing reads them)."""
    case = load_file(golden / f"dit/dit_{name}.safetensors")
    batch = case["in.x"].shape[0]
    for row in range(batch):
        valid = int(case["in.text_mask"][row].sum())
        single = {key: value[row : row + 1] for key, value in case.items() if key.startswith(("in.x", "in.t", "in.g"))}
        seen = record(official, single)
        count = case["act.img_in"].shape[1]
        for key in [key for key in case if key.startswith("act.")]:
            expected = case[key][row : row + 1]
            if (key.startswith("act.txt_in") and expected.ndim == 3) or key.endswith(".txt"):
                expected = expected[:, :valid]
            elif key.startswith("act.single_blocks"):
                expected = expected[:, : count + valid]
            compare(f"transformer {name}, {key.removeprefix('act.')}", seen[key], expected, LIMIT)


def record(model: HunyuanVideoTransformer, case: dict[str, Tensor]) -> dict[str, Tensor]:
    modules = {
        "img_in": model.img_in,
        "time_in": model.time_in,
        "vector_in": model.vector_in,
        "guidance_in": model.guidance_in,
        "txt_in": model.txt_in,
        "txt_in.t_embedder": model.txt_in.t_embedder,
        "txt_in.c_embedder": model.txt_in.c_embedder,
        "final_layer": model.final_layer,
    }
    for index, block in enumerate(model.txt_in.individual_token_refiner.blocks):
        modules[f"txt_in.refiner.{index}"] = block
    for kind in ("double_blocks", "single_blocks"):
        for index, block in enumerate(getattr(model, kind)):
            modules[f"{kind}.{index}"] = block
    seen: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(module, inputs, output):
            if isinstance(output, tuple):
                seen[f"act.{name}.img"], seen[f"act.{name}.txt"] = output
            else:
                seen[f"act.{name}"] = output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items() if module is not None]
    try:
        run(model, case)
    finally:
        for handle in handles:
            handle.remove()
    seen["act.vec"] = seen["act.time_in"] + seen["act.vector_in"] + seen["act.guidance_in"]
    return seen


def test_official_fp8_pair(golden, compare):
    case = load_file(golden / "fp8/fp8_c0.safetensors")
    path = golden / "fp8/mp_rank_00_model_states_fp8.pt"
    compare("transformer fp8, scales in fp32", run(load_transformer(path), case), case["out"], LIMIT)


def test_padding_rows_change_nothing(golden, official):
    case = load_file(golden / "dit/dit_c0.safetensors")
    before = run(official, case)
    case["in.text_states"][:, 13:] = 37.0
    assert torch.equal(run(official, case), before)


def test_a_batch_equals_its_samples(golden, official):
    case = load_file(golden / "dit/dit_c1.safetensors")
    together = run(official, case)
    apart = [run(official, {key: value[row : row + 1] for key, value in case.items()}) for row in range(2)]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-6, rtol=0)


def test_bf16_stays_within_two_percent(golden):
    case = load_file(golden / "dit/dit_c0.safetensors")
    model = load_transformer(golden / "ckpts_diffusers", dtype=torch.bfloat16)
    out = run(model, case)
    assert out.dtype == torch.bfloat16
    assert float((out.float() - case["out"]).norm() / case["out"].norm()) < 0.02
