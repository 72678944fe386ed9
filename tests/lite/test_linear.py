"""Layers with quantized weights: both arithmetics against plain fp32, and quantized folders through the model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hvlite.kernels import ops
from hvlite.lite.checkpoint import load_text_encoders, load_transformer
from hvlite.lite.models.linear import Nf4Linear, QuantLinear, linear_rows
from hvlite.lite.models.transformer import HunyuanVideoTransformer
from hvlite.quantize.convert import QuantizeOptions, run_quantize
from hvlite.quantize.format import open_hvlite_text_encoder
from hvlite.quantize.methods import amax_scale, encode_rows
from hvlite.quantize.packing import decode_absmax, decode_nf4, encode_nf4, read_nf4_state
from hvlite.quantize.scheme import NF4_STATE, SCHEMES
from hvlite.quantize.source import open_text_encoder

ROPE = {"rope_dim_list": [8, 12, 12]}
SHAPES = [(1, 1, 1), (7, 33, 5), (92, 64, 48), (3, 1000, 7)]


def layer_of(name: str, columns: int, rows: int, bias: bool = True) -> tuple[QuantLinear, Tensor]:
    """A quantized layer, and the fp32 weight its codes stand for."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * 0.1
    scale = amax_scale(weight, SCHEMES[name])
    codes = encode_rows(weight, scale, SCHEMES[name])
    layer = QuantLinear(codes, scale, nn.Parameter(torch.randn(rows), requires_grad=False) if bias else None)
    return layer, codes.to(torch.float32) * scale[:, None]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["fp8", "int8"])
@pytest.mark.parametrize(("tokens", "columns", "rows"), SHAPES)
def test_dequantize_is_the_plain_layer(name: str, tokens: int, columns: int, rows: int, bias: bool) -> None:
    layer, weight = layer_of(name, columns, rows, bias)
    x = torch.randn(2, tokens, columns)
    assert torch.equal(layer(x), nn.functional.linear(x, weight, layer.bias))


@pytest.mark.parametrize("name", ["fp8", "int8"])
@pytest.mark.parametrize(("tokens", "columns", "rows"), SHAPES)
def test_w8a8_by_its_definition(name: str, tokens: int, columns: int, rows: int) -> None:
    """Each token divided by its own scale, rounded, multiplied in double precision, scaled back."""
    layer, weight = layer_of(name, columns, rows)
    layer.arithmetic = "w8a8"
    x = torch.randn(2, tokens, columns) * torch.logspace(-3, 3, tokens)[:, None]
    dtype, largest = (torch.int8, 127.0) if name == "int8" else (torch.float8_e4m3fn, 448.0)
    scale = x.abs().amax(dim=-1, keepdim=True) / largest
    codes = (x * (1 / scale)).round() if name == "int8" else (x * (1 / scale)).clamp(-448, 448)
    values = codes.to(dtype).double() * scale.double()
    wanted = values @ weight.double().t() + layer.bias.double()  # type: ignore[union-attr]
    assert torch.allclose(layer(x).double(), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    plain = nn.functional.linear(x, weight)
    found = layer(x) - layer.bias
    limit = 0.03 if name == "int8" else 0.06
    assert bool(((found - plain).norm(dim=-1) <= limit * x.norm(dim=-1) * weight.norm()).all())


def test_tokens_of_zeros_and_huge_tokens() -> None:
    for dtype in (torch.int8, torch.float8_e4m3fn):
        codes, scale = ops.quantize_tokens(torch.tensor([[0.0, 0.0], [1e30, -1e30], [1e-40, 0.0]]), dtype)
        assert bool(torch.isfinite(scale).all())
        assert scale[0] == scale[2] == 1
        assert bool(torch.isfinite(codes.float()).all())


@pytest.mark.parametrize("arithmetic", ["dequantize", "w8a8"])
def test_row_slices_are_the_rows(arithmetic: str) -> None:
    layer, _ = layer_of("int8", 64, 48)
    layer.arithmetic = arithmetic  # type: ignore[assignment]
    x = torch.randn(5, 64)
    whole = layer(x)
    parts = [linear_rows(layer, x, start, end) for start, end in ((0, 7), (7, 40), (40, 48))]
    assert torch.allclose(torch.cat(parts, dim=-1), whole, atol=1e-6)


def test_a_token_does_not_depend_on_its_neighbours() -> None:
    for name in ("int8", "fp8"):
        layer, _ = layer_of(name, 256, 32)
        layer.arithmetic = "w8a8"
        x = torch.randn(8, 256)
        alone = layer(x[3:4])
        x[4] *= 1000
        assert torch.allclose(layer(x)[3:4], alone, rtol=1e-6)


def test_nf4_layer_is_its_decoded_weight() -> None:
    weight = (torch.randn(48, 100) * 0.05).half()
    parts = encode_nf4(weight)
    offset = read_nf4_state(parts[f".{NF4_STATE}"])["nested_offset"]
    absmax = decode_absmax(parts, offset)
    layer = Nf4Linear(parts[""].view(-1), absmax, parts[".quant_map"], (48, 100))
    x = torch.randn(3, 100)
    assert torch.equal(layer(x), nn.functional.linear(x, decode_nf4(parts)))


@pytest.mark.parametrize(
    ("x", "scale", "weight", "weight_scale"),
    [
        ((3, 4), (2,), (5, 4), (5,)),
        ((3, 4), (3,), (5, 6), (5,)),
        ((3, 4), (3,), (5, 4), (4,)),
        ((3, 4, 1), (3,), (5, 4), (5,)),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    x: tuple[int, ...], scale: tuple[int, ...], weight: tuple[int, ...], weight_scale: tuple[int, ...]
) -> None:
    from hvlite.errors import ConfigError

    tensors = (torch.zeros(x).char(), torch.ones(scale), torch.zeros(weight).char(), torch.ones(weight_scale))
    for multiply in (ops.int8_mm, ops.fp8_mm):
        with pytest.raises(ConfigError, match=r"expected \[M, K\]"):
            multiply(*tensors)


@pytest.fixture(scope="module")
def folders(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The golden official tree in fp8 and in int8, the language model in nf4 and in int4."""
    root = tmp_path_factory.mktemp("folders")
    for scheme, text in (("fp8", "nf4"), ("int8", "int4"), ("bf16", "bf16")):
        run_quantize(QuantizeOptions(golden / "ckpts_official", root / scheme, transformer=scheme, text_encoder=text))
    return {scheme: root / scheme for scheme in ("fp8", "int8", "bf16")}


def output(model: HunyuanVideoTransformer, case: dict[str, Tensor]) -> Tensor:
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


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
@pytest.mark.parametrize("arithmetic", ["dequantize", "w8a8"])
@pytest.mark.parametrize("scheme", ["fp8", "int8"])
def test_the_quantized_transformer_is_close(
    folders: dict[str, Path], golden: Path, scheme: str, arithmetic: str, case: str
) -> None:
    recorded = load_file(golden / "dit" / f"dit_{case}.safetensors")
    model = load_transformer(folders[scheme], config=ROPE, linear=arithmetic)
    assert sum(isinstance(module, QuantLinear) for module in model.modules()) == 20
    out = output(model, recorded)
    cosine = torch.nn.functional.cosine_similarity(out.flatten(), recorded["out"].flatten(), dim=0)
    assert float(cosine) > 0.999


def test_the_bf16_folder_is_exact(folders: dict[str, Path], golden: Path) -> None:
    recorded = load_file(golden / "dit" / "dit_c0.safetensors")
    plain = load_transformer(golden / "ckpts_official", config=ROPE)
    assert torch.equal(output(load_transformer(folders["bf16"], config=ROPE), recorded), output(plain, recorded))


def test_the_text_of_a_bf16_folder_is_that_of_the_source(
    folders: dict[str, Path], golden: Path, tmp_path: Path
) -> None:
    """bf16 rounds the fp16 weights; a float16 copy of the same layers is exact: the cut layers are never used."""
    recipe = tmp_path / "exact.toml"
    recipe.write_text('[text_encoder]\n"*" = "fp16"\n')
    run_quantize(QuantizeOptions(golden / "ckpts_official", tmp_path / "out", recipe=recipe))
    wanted = load_text_encoders(golden / "ckpts_official").encode(["a cat walks", ""])
    found = load_text_encoders(tmp_path / "out").encode(["a cat walks", ""])
    assert torch.equal(found.prompt_embeds, wanted.prompt_embeds)
    assert torch.equal(found.pooled_prompt_embeds, wanted.pooled_prompt_embeds)


def test_nf4_text_equals_the_decoded_weights(folders: dict[str, Path]) -> None:
    """4-bit layers give the very states that the same weights give when they are decoded at load."""
    encoders = load_text_encoders(folders["fp8"])
    assert sum(isinstance(module, Nf4Linear) for module in encoders.llm.modules()) == 28
    found = encoders.encode("a cat walks on the grass")
    with open_text_encoder(folders["fp8"]) as source:
        for name in source.names():
            module, _, leaf = name.rpartition(".")
            if isinstance(encoders.llm.get_submodule(module), Nf4Linear):
                weight = source.read_dequantized(name)
                layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
                setattr(layer, leaf, nn.Parameter(weight, requires_grad=False))
                encoders.llm.set_submodule(module, layer)
    assert torch.equal(encoders.encode("a cat walks on the grass").prompt_embeds, found.prompt_embeds)


def test_an_int4_folder_loads(folders: dict[str, Path]) -> None:
    states = load_text_encoders(folders["int8"]).encode("a cat").prompt_embeds
    assert bool(torch.isfinite(states).all())


def test_a_folder_may_be_moved(folders: dict[str, Path], tmp_path: Path) -> None:
    moved = shutil.copytree(folders["fp8"], tmp_path / "elsewhere")
    with open_hvlite_text_encoder(moved) as source:
        assert source.skipped_layers == 0
