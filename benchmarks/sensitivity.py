"""Which layers a quantized transformer's error comes from, and what candidate recipes would do about it.

    python -m hvlite.benchmarks.sensitivity                           # the model that ships, fp8, w8a8
    python -m hvlite.benchmarks.sensitivity --scheme int8 --every 2

Each linear layer alone is quantized in the otherwise unquantized model; its share is the squared relative error that
adds to the prediction, averaged over steps and prompts of the unquantized run. The errors of different layers are
nearly independent, so that shares add up. Then whole recipes: least cosine of a step, and bytes. Layers are swapped in
memory: no folder is written. Everything runs in fp32 on the CPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..lite.arithmetic import Arithmetic
from ..lite.card import demo_root
from ..lite.checkpoint import load_transformer
from ..lite.models.linear import QuantLinear
from ..lite.models.transformer import HunyuanVideoTransformer
from ..lite.sampling import flow_schedule
from ..quantize.methods import amax_scale, encode_rows, mse_scale
from ..quantize.recipe import Choice, PartRecipe, builtin_recipes
from ..quantize.scheme import SCHEMES
from .quality import PROMPTS, Trajectory, cosine_of, predict, trajectory_of

FIRST_SEED = 1000  # the seeds of `hvlite bench quality`, so that its figures and these are of the same runs
# Patterns that are kept higher together, by what the table calls them.
KINDS = {
    "single_blocks.*.linear1": ("single_blocks.*.linear1",),
    "single_blocks.*.linear2": ("single_blocks.*.linear2",),
    "single_blocks.*": ("single_blocks.*",),
    "single_blocks.* and qkv": ("single_blocks.*", "*_attn_qkv"),
    "all but fc2": ("single_blocks.*", "*_attn_*", "*_mlp.fc1"),
}
BYTES = {"fp8": 1, "int8": 1, "bf16": 2}


@dataclass(frozen=True)
class Point:
    """A moment of the unquantized run: what goes in, and what came out."""

    of: Trajectory
    latents: Tensor
    timestep: Tensor
    output: Tensor


@dataclass(frozen=True)
class LayerShare:
    """A layer quantized alone: the mean squared relative error of the prediction, its least cosine, its weights."""

    layer: str
    squared_error: float
    least_cosine: float
    weights: int


@dataclass(frozen=True)
class RecipeRow:
    """A whole recipe: as a share, with the bytes of the blocks' linear weights and the worst step's index."""

    recipe: str
    squared_error: float
    least_cosine: float
    worst_step: int
    weight_bytes: int


def measure(
    model: Path, scheme: str, every: int, arithmetic: Arithmetic, config: Mapping[str, Any] | None = None
) -> tuple[list[LayerShare], list[RecipeRow]]:
    """All layers, the largest share first, then the candidate recipes."""
    trajectories = [trajectory_of(model, prompt, FIRST_SEED + n, config) for n, prompt in enumerate(PROMPTS)]
    points = [point for each in trajectories for point in _points(each, every)]
    transformer = load_transformer(model, config=config)
    plain = dict(_linears(transformer))
    shares = []
    for name, layer in plain.items():
        with _Swapped(transformer, {name: quantized(layer, Choice.parse(scheme), arithmetic)}):
            errors, cosines = _compare(transformer, points)
        shares.append(LayerShare(name, sum(errors) / len(errors), min(cosines), layer.weight.numel()))
    shares.sort(key=lambda share: -share.squared_error)
    rows = [
        _recipe_row(transformer, plain, recipe, name, points, arithmetic, every)
        for name, recipe in candidates(scheme, [share.layer for share in shares])
    ]
    return shares, rows


def candidates(scheme: str, ranked: list[str]) -> Iterator[tuple[str, PartRecipe]]:
    """The built-in recipes, and `scheme` with the worst layers, kinds of layers or last blocks kept higher."""
    built_in = builtin_recipes("transformer")
    yield from ((name, built_in[name]) for name in ("fp8", "fp8:mse", "int8", "mixed"))
    for high in ("int8", "bf16"):
        for count in (2, 4, 8):
            yield f"{scheme}, worst {count} in {high}", _with(built_in[scheme], dict.fromkeys(ranked[:count], high))
        for kind, patterns in KINDS.items():
            yield f"{scheme}, {kind} in {high}", _with(built_in[scheme], dict.fromkeys(patterns, high))


def quantized(layer: nn.Linear, choice: Choice, arithmetic: Arithmetic) -> QuantLinear:
    """A layer as `hvlite quantize` stores it."""
    weight = layer.weight.detach().float()
    scale = (mse_scale if choice.method == "mse" else amax_scale)(weight, choice.scheme)
    return QuantLinear(encode_rows(weight, scale, choice.scheme), scale, layer.bias, arithmetic)


def by_kind(shares: list[LayerShare]) -> dict[str, float]:
    """Shares summed over blocks: `single_blocks.linear2`, ..."""
    sums: dict[str, float] = {}
    for share in shares:
        block, _, rest = share.layer.partition(".")
        kind = f"{block}.{rest.partition('.')[2]}"
        sums[kind] = sums.get(kind, 0.0) + share.squared_error
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


class _Swapped:
    """Layers of a model replaced while in a `with`."""

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        self.model, self.layers = model, layers
        self.before = {name: model.get_submodule(name) for name in layers}

    def __enter__(self) -> None:
        for name, layer in self.layers.items():
            self.model.set_submodule(name, layer)

    def __exit__(self, *_: object) -> None:
        for name, layer in self.before.items():
            self.model.set_submodule(name, layer)


def _linears(model: HunyuanVideoTransformer) -> Iterator[tuple[str, nn.Linear]]:
    recipe = builtin_recipes("transformer")["fp8"]
    for name, layer in model.named_modules():
        in_block = name.startswith(("double_blocks.", "single_blocks."))
        if in_block and isinstance(layer, nn.Linear) and recipe.choose(f"{name}.weight").scheme.quantized:
            yield name, layer


def _points(trajectory: Trajectory, every: int) -> Iterator[Point]:
    config = trajectory.config
    timesteps = flow_schedule(config.steps, config.flow_shift, reverse=config.flow_reverse).timesteps
    moments = list(zip(trajectory.latents, timesteps, trajectory.outputs, strict=False))[::every]
    yield from (Point(trajectory, *moment) for moment in moments)


@torch.no_grad()
def _compare(transformer: HunyuanVideoTransformer, points: list[Point]) -> tuple[list[float], list[float]]:
    """Squared relative error and cosine of the prediction at every point."""
    errors, cosines = [], []
    for point in points:
        found = predict(transformer, point.of.embeds, point.of.config, point.latents, point.timestep)
        errors.append(float((found - point.output).square().sum() / point.output.square().sum()))
        cosines.append(cosine_of(found, point.output))
    return errors, cosines


def _recipe_row(
    transformer: HunyuanVideoTransformer,
    plain: Mapping[str, nn.Linear],
    recipe: PartRecipe,
    name: str,
    points: list[Point],
    arithmetic: Arithmetic,
    every: int,
) -> RecipeRow:
    choices = {layer: recipe.choose(f"{layer}.weight") for layer in plain}
    layers = {
        layer: quantized(plain[layer], choice, arithmetic)
        for layer, choice in choices.items()
        if choice.scheme.quantized
    }
    with _Swapped(transformer, layers):
        errors, cosines = _compare(transformer, points)
    nbytes = sum(plain[layer].weight.numel() * BYTES[choice.scheme.name] for layer, choice in choices.items())
    worst = cosines.index(min(cosines)) % (len(cosines) // len(PROMPTS)) * every
    return RecipeRow(name, sum(errors) / len(errors), min(cosines), worst, nbytes)


def _with(recipe: PartRecipe, higher: Mapping[str, str]) -> PartRecipe:
    """The recipe with these patterns in front."""
    own = tuple((pattern, Choice(SCHEMES[scheme])) for pattern, scheme in higher.items())
    return PartRecipe(recipe.part, (*own, *recipe.patterns), recipe.default)


def table(shares: list[LayerShare], rows: list[RecipeRow]) -> str:
    """Everything as markdown."""
    total = sum(share.squared_error for share in shares)
    lines = ["| layer, quantized alone | share of the squared error | least cosine | weights |", "|---|--:|--:|--:|"]
    for share in shares:
        lines.append(
            f"| {share.layer} | {share.squared_error / total:.1%} | {share.least_cosine:.6f} | {share.weights:,} |"
        )
    lines += ["", "| kind | share |", "|---|--:|"]
    lines += [f"| {kind} | {part / total:.1%} |" for kind, part in by_kind(shares).items()]
    lines += ["", "| recipe | least cosine | at step | relative error | bytes |", "|---|--:|--:|--:|--:|"]
    for row in rows:
        numbers = f"{row.least_cosine:.6f} | {row.worst_step} | {row.squared_error**0.5:.2%} | {row.weight_bytes:,}"
        lines.append(f"| {row.recipe} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=None, help="a model folder; the shipped one without it")
    parser.add_argument("--scheme", choices=("fp8", "int8"), default="fp8")
    parser.add_argument("--arithmetic", choices=("w8a8", "dequantize"), default="w8a8")
    parser.add_argument("--every", type=int, default=4, help="take every Nth step")
    parser.add_argument("--out", type=Path, default=None, help="write the figures here, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shares, rows = measure(arguments.model or demo_root(), arguments.scheme, arguments.every, arguments.arithmetic)
    print(table(shares, rows))
    if arguments.out:
        figures = {"layers": [asdict(each) for each in shares], "recipes": [asdict(each) for each in rows]}
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
