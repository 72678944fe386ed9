"""Which scheme each weight gets: patterns over module names, the first that fits decides.

A recipe file is TOML, a table for each part:

    [transformer]
    "double_blocks.0.*" = "bf16"          # keep the first block high
    "single_blocks.*.linear2" = "fp8:mse"  # error-minimising scales

Its patterns come before the built-in ones of `--transformer`, `--text-encoder` and `--vae`. `*` stands for any text,
dots included. ":mse" after fp8, int8 or int4 searches the scale with the least squared error; without it the largest
weight decides.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, cast

from ..errors import ConfigError
from ..files import read_limited
from .scheme import SCHEMES, Scheme

Method = Literal["amax", "mse"]
PARTS = ("transformer", "text_encoder", "text_encoder_2", "vae")
RECIPE_LIMIT_BYTES = 1 << 20

# The linear layers that may be quantized: modulation is computed once a run from bf16, the rest is small.
_LINEARS = {
    "transformer": (
        "double_blocks.*_attn_qkv",
        "double_blocks.*_attn_proj",
        "double_blocks.*_mlp.fc?",
        "single_blocks.*.linear?",
    ),
    "text_encoder": ("layers.*_proj",),
    "text_encoder_2": (),
    "vae": (),
}
# "mixed" has these in int8, the rest in fp8: nine tenths of what fp8 costs the shipped model come from single blocks,
# most of the rest from qkv (`python -m hvlite.benchmarks.sensitivity`).
_SENSITIVE = ("single_blocks.*", "double_blocks.*_attn_qkv")
_SCALED = ("fp8", "int8", "int4")


@dataclass(frozen=True)
class Choice:
    """A scheme and how its scales are chosen."""

    scheme: Scheme
    method: Method = "amax"

    @classmethod
    def parse(cls, text: object) -> Choice:
        """From "fp8" or "fp8:mse". Raises ConfigError."""
        name, _, method = str(text).partition(":")
        if name not in SCHEMES or method not in ("", "amax", "mse") or (method and name not in _SCALED):
            raise ConfigError(
                f"{text!r:.80} is not a scheme; expected one of {', '.join(SCHEMES)}",
                hint='fp8, int8 and int4 take ":mse" as well, for error-minimising scales',
            )
        return cls(SCHEMES[name], cast("Method", method or "amax"))

    def __str__(self) -> str:
        return self.scheme.name + (":mse" if self.method == "mse" else "")


@dataclass(frozen=True)
class PartRecipe:
    """The patterns of one part, in order; `default` for what no pattern fits (norms, biases, embedders, ...)."""

    part: str
    patterns: tuple[tuple[str, Choice], ...]
    default: Choice

    def choose(self, name: str) -> Choice:
        """The choice for a tensor by its name. A quantized scheme is for the weights of linear layers only."""
        module, _, leaf = name.rpartition(".")
        for pattern, choice in self.patterns:
            if _fits(self.part, pattern, choice, module) and (leaf == "weight" or not choice.scheme.quantized):
                return choice
        return self.default

    def require_used(self, names: Iterable[str]) -> None:
        """ConfigError for a pattern that fits nothing: it is a slip of the pen."""
        modules = sorted({name.rpartition(".")[0] for name in names})
        for pattern, choice in self.patterns:
            if not any(_fits(self.part, pattern, choice, module) for module in modules):
                able = [module for module in modules if _fits(self.part, "*", choice, module)]
                raise ConfigError(
                    f"the recipe's {pattern!r} = {str(choice)!r} fits no module of the {self.part.replace('_', ' ')}",
                    hint=f"such modules are {', '.join(able[:3])}, ..."
                    if able
                    else "nothing there can be stored that way",
                )

    def to_json(self) -> dict[str, Any]:
        return {"patterns": [[pattern, str(choice)] for pattern, choice in self.patterns], "default": str(self.default)}


def _fits(part: str, pattern: str, choice: Choice, module: str) -> bool:
    able = not choice.scheme.quantized or any(fnmatchcase(module, linear) for linear in _LINEARS[part])
    return able and fnmatchcase(module, pattern)


Recipe = Mapping[str, PartRecipe]


def builtin_recipes(part: str) -> dict[str, PartRecipe]:
    """The recipes of a part, by the name its option takes; the first is the default."""
    names, kept = {
        "transformer": (("fp8", "fp8:mse", "int8", "int8:mse", "mixed", "bf16"), "bf16"),
        "text_encoder": (("nf4", "int4", "int4:mse", "int8", "bf16"), "fp16"),
        "text_encoder_2": (("fp16", "bf16"), "fp16"),
        "vae": (("fp16", "bf16", "fp32"), "fp16"),
    }[part]
    return {name: _builtin(part, name, Choice.parse(kept)) for name in names}


def _builtin(part: str, name: str, kept: Choice) -> PartRecipe:
    if name == "mixed":
        sensitive = tuple((pattern, Choice.parse("int8")) for pattern in _SENSITIVE)
        return PartRecipe(part, (*sensitive, ("*", Choice.parse("fp8"))), kept)
    choice = Choice.parse(name)
    if not choice.scheme.quantized:
        return PartRecipe(part, (), choice)
    return PartRecipe(part, (("*", choice),), kept)


def make_recipe(names: Mapping[str, str], path: Path | None = None) -> Recipe:
    """The recipe for {part: built-in name}, with the patterns of a recipe file in front. Raises ConfigError."""
    own = load_recipe(path) if path else {}
    recipe = {}
    for part in PARTS:
        known = builtin_recipes(part)
        name = names.get(part, next(iter(known)))
        if name not in known:
            raise ConfigError(f"{name!r} is not a recipe for the {part}", hint=f"expected one of {', '.join(known)}")
        recipe[part] = PartRecipe(part, (*own.get(part, ()), *known[name].patterns), known[name].default)
    return recipe


def load_recipe(path: Path) -> dict[str, tuple[tuple[str, Choice], ...]]:
    """The patterns of a recipe file, by part. Raises ConfigError, CheckpointError where it cannot be read."""
    try:
        tables = tomllib.loads(read_limited(path, RECIPE_LIMIT_BYTES).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not a recipe: {error}", hint="a recipe is TOML; docs/quantization.md shows one"
        ) from error
    unknown = sorted(set(tables) - set(PARTS))
    if unknown or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigError(
            f"{path} holds {', '.join(unknown) or 'values'} outside of its tables",
            hint=f"the tables are {', '.join(PARTS)}",
        )
    return {
        part: tuple((name, _choice(path, name, text)) for name, text in table.items()) for part, table in tables.items()
    }


def _choice(path: Path, pattern: str, text: object) -> Choice:
    try:
        return Choice.parse(text)
    except ConfigError as error:
        raise ConfigError(f"{path}, {pattern!r}: {error.message}", hint=error.hint) from None
