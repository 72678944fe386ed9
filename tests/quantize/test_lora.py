"""LoRA files of every kind merge into the recorded weights and outputs; what does not fit is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hvlite.errors import CheckpointError, ConfigError
from hvlite.lite.models.transformer import HunyuanVideoTransformer
from hvlite.quantize.convert import QuantizeOptions, run_quantize
from hvlite.quantize.lora import Lora, open_loras, parse_argument
from hvlite.quantize.readers.transformer_source import TransformerSource, open_transformer
from hvlite.quantize.verify import run_verify

ROPE = {"rope_dim_list": [8, 12, 12]}
QKV = "double_blocks.0.img_attn_qkv.weight"
State = dict[str, Tensor]


@pytest.fixture
def source(golden: Path) -> TransformerSource:
    return open_transformer(golden / "ckpts_official", config=ROPE)


def merged(source: TransformerSource, loras: tuple[Lora, ...]) -> State:
    state = {name: source.read_dequantized(name) for name in source.names()}
    for lora in loras:
        for name in state:
            if lora.touches(name):
                lora.add_to(state[name], name)
    return state


def output(golden: Path, source: TransformerSource, state: State) -> Tensor:
    model = HunyuanVideoTransformer(source.config)
    model.load_state_dict(state)
    case = load_file(golden / "dit" / "dit_c0.safetensors")
    with torch.no_grad():
        out: Tensor = model(
            latents=case["in.x"],
            timestep=case["in.t"],
            guidance=case["in.guidance"],
            prompt_embeds=case["in.text_states"],
            prompt_mask=case["in.text_mask"],
            pooled_prompt_embeds=case["in.text_states_2"],
        )
    return out


@pytest.mark.parametrize(
    ("file", "scale", "expected"),
    [
        ("lora_kohya", "", "out.mult1.0"),
        ("lora_kohya", ":0.6", "out.mult0.6"),
        ("lora_comfy", "", "out.mult1.0"),
        ("lora_comfy", ":0.6", "out.mult0.6"),
        ("lora_diffusers", "", "out.mult1.0"),
        ("lora_diffusers_native", "", "out.native.mult1.0"),
        ("lora_official_i2v_prefix", "", "out.official_i2v_alpha_ignored.mult1.0"),
    ],
)
def test_the_recorded_output(golden: Path, source: TransformerSource, file: str, scale: str, expected: str) -> None:
    loras = open_loras((f"{golden / 'lora' / file}.safetensors{scale}",), source)
    out = output(golden, source, merged(source, loras))
    recorded = load_file(golden / "lora" / "lora_expected.safetensors")
    assert (out - recorded[expected]).abs().max() < 2e-5


def test_the_recorded_weight(golden: Path, source: TransformerSource) -> None:
    recorded = load_file(golden / "lora" / "lora_expected.safetensors")
    for file, key in (("lora_kohya", f"merged.{QKV}"), ("lora_diffusers_native", f"merged.native.{QKV}")):
        loras = open_loras((f"{golden / 'lora' / file}.safetensors",), source)
        assert (merged(source, loras)[QKV] - recorded[key].float()).abs().max() < 1e-6


def test_two_loras_add_up(golden: Path, source: TransformerSource) -> None:
    path = golden / "lora" / "lora_kohya.safetensors"
    twice = open_loras((f"{path}:0.5", f"{path}:0.5"), source)
    once = open_loras((str(path),), source)
    assert torch.allclose(merged(source, twice)[QKV], merged(source, once)[QKV], atol=1e-6)


@pytest.fixture
def make(golden: Path, tmp_path: Path, source: TransformerSource) -> Callable[..., tuple[Lora, ...]]:
    """make(change, metadata=None): the kohya file, changed, and opened."""

    def run(change: Callable[[State], object], metadata: dict[str, str] | None = None) -> tuple[Lora, ...]:
        state = load_file(golden / "lora" / "lora_kohya.safetensors")
        change(state)
        path = tmp_path / "changed.safetensors"
        save_file(state, path, metadata)
        return open_loras((str(path),), source)

    return run


PROJ = "lora_unet_double_blocks_0_img_attn_proj"


def test_split_fused_modules_of_musubi(
    source: TransformerSource, make: Callable[..., tuple[Lora, ...]], golden: Path
) -> None:
    """lora_up.N of a fused qkv: the same weight as one up matrix of all rows and the down matrices side by side."""
    module = "lora_unet_double_blocks_0_img_attn_qkv"

    def split(state: State) -> None:
        up, down = state.pop(f"{module}.lora_up.weight"), state.pop(f"{module}.lora_down.weight")
        for index, rows in enumerate(up.chunk(3)):
            state[f"{module}.lora_up.{index}.weight"] = rows.contiguous()
            state[f"{module}.lora_down.{index}.weight"] = down.clone()

    whole = open_loras((str(golden / "lora" / "lora_kohya.safetensors"),), source)
    assert torch.allclose(merged(source, make(split))[QKV], merged(source, whole)[QKV], atol=1e-6)


def test_alpha_is_the_rank_where_none_is_given(
    source: TransformerSource, make: Callable[..., tuple[Lora, ...]], golden: Path
) -> None:
    """The golden file has alpha 2 and rank 4: without its alpha the change is twice as large."""
    name = "double_blocks.0.img_attn_proj.weight"
    base = source.read_dequantized(name)
    with_alpha = merged(source, open_loras((str(golden / "lora" / "lora_kohya.safetensors"),), source))[name] - base
    without = merged(source, make(lambda state: state.pop(f"{PROJ}.alpha")))[name] - base
    assert torch.allclose(without, 2 * with_alpha, atol=1e-6)


def rename(old: str, new: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[new] = state.pop(old)

    return change


UP, DOWN = f"{PROJ}.lora_up.weight", f"{PROJ}.lora_down.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename(UP, "lora_unet_nothing.lora_up.weight"), "no (up|down) factor"),
        (rename(UP, f"{PROJ}.hada_w1_a"), "hada_w1_a"),
        (rename(UP, f"{PROJ}.lokr_w1"), "lokr_w1"),
        (rename(UP, f"{PROJ}.dora_scale"), "dora_scale"),
        (rename(UP, "lora_te1_text_model_q_proj.lora_up.weight"), "no (up|down) factor"),
        (lambda state: state.pop(DOWN), "has no down factor"),
        (lambda state: state.update({UP: torch.randn(64, 3)}), r"expected \[64, r\] and \[r, 64\]"),
        (lambda state: state.update({UP: torch.randn(32, 4)}), r"factors \[32, 4\] and \[4, 64\]"),
        (lambda state: state.update({DOWN: torch.randn(4, 32)}), r"factors \[64, 4\] and \[4, 32\]"),
        (lambda state: state.update({UP: torch.randn(64, 2000), DOWN: torch.randn(2000, 64)}), "expected"),
        (lambda state: state.update({UP: torch.randn(64)}), "expected"),
        (lambda state: state.update({f"{PROJ}.alpha": torch.tensor(float("nan"))}), "is no alpha"),
        (lambda state: state.update({f"{PROJ}.alpha": torch.tensor(0.0)}), "is no alpha"),
        (lambda state: state.update({"stray": torch.zeros(1)}), "'stray' changes nothing"),
    ],
)
def test_what_does_not_fit_is_named(
    make: Callable[..., tuple[Lora, ...]], change: Callable[[State], object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        make(change)
    assert "changed.safetensors" in caught.value.message


def test_factors_that_are_not_finite_are_named(
    source: TransformerSource, make: Callable[..., tuple[Lora, ...]]
) -> None:
    loras = make(lambda state: state[UP].fill_(float("inf")))
    with pytest.raises(CheckpointError, match=f"{PROJ}.lora_up.weight' holds 256 values that are not finite"):
        merged(source, loras)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"lora_alpha": "x"}', '{"alpha_pattern": [1]}', '{"alpha_pattern": {"(a+)+": 1}}', "[" * 9999],
)
def test_malformed_metadata_is_refused(make: Callable[..., tuple[Lora, ...]], text: str) -> None:
    with pytest.raises(CheckpointError, match="lora_adapter_metadata"):
        make(lambda state: None, {"lora_adapter_metadata": text})


def test_patterns_and_rslora_in_the_metadata(golden: Path, tmp_path: Path, source: TransformerSource) -> None:
    state = load_file(golden / "lora" / "lora_diffusers_native.safetensors")
    name = "single_blocks.0.linear2.weight"
    base = source.read_dequantized(name)
    changes = {}
    for kind, metadata in {
        "plain": {"lora_alpha": 5},
        "pattern": {"lora_alpha": 5, "alpha_pattern": {"single_transformer_blocks.0.proj_out": 10}},
        "rs": {"lora_alpha": 5, "use_rslora": True},
    }.items():
        path = tmp_path / f"{kind}.safetensors"
        text = json.dumps({f"transformer.{key}": value for key, value in metadata.items()})
        save_file(state, path, {"lora_adapter_metadata": text})
        changes[kind] = merged(source, open_loras((str(path),), source))[name] - base
    assert changes["plain"].norm() > 0
    assert torch.allclose(changes["pattern"], 2 * changes["plain"], atol=1e-5)
    assert torch.allclose(changes["rs"], 5**0.5 * changes["plain"], atol=1e-5)


@pytest.mark.parametrize("text", ["a.safetensors:big", "a.safetensors:nan", "a.safetensors:1e9", "a.safetensors:"])
def test_a_scale_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="LoRA scale"):
        parse_argument(text)


def test_a_colon_in_a_file_name(tmp_path: Path) -> None:
    path = tmp_path / "a:0.5"
    path.write_bytes(b"")
    assert parse_argument(str(path)) == (path, 1.0)
    assert parse_argument(f"{path}:0.25") == (path, 0.25)


def test_only_safetensors_is_read(source: TransformerSource, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only LoRAs in safetensors"):
        open_loras((str(tmp_path / "lora.pt"),), source)


def test_a_merged_lora_is_quantized_and_verified(golden: Path, tmp_path: Path) -> None:
    """The folder differs from the plain one only where the LoRA reaches, and `verify` knows the difference."""
    lora = str(golden / "lora" / "lora_kohya.safetensors")
    options = {"parts": ("transformer",), "model_config": ROPE, "transformer": "int8"}
    result = run_quantize(QuantizeOptions(golden / "ckpts_official", tmp_path / "out", loras=(lora,), **options))  # type: ignore[arg-type]
    assert result.manifest["settings"]["loras"][0]["scale"] == 1.0
    without = run_verify(tmp_path / "out", golden / "ckpts_official")
    assert len([problem for problem in without.problems if "away from the source" in problem]) == 20
    assert run_verify(tmp_path / "out", golden / "ckpts_official", loras=(lora,)).ok
