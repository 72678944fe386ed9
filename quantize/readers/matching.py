"""Compares what a file holds with what the architecture needs: every tensor once, with its shape, and no others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from math import prod

from ...errors import CheckpointError
from .keymap import Recipe, strip_prefixes
from .tensor_file import TensorFile, TensorInfo
from .weight_source import recipe_info

_LISTED = 5
_ANOTHER_MODEL = "the file belongs to another model, or its download was cut; `hvlite inspect` shows what is in it"


def strip_names(
    file: TensorFile,
    prefixes: tuple[str, ...],
    canonical: Callable[[str], str] = str,
    names: Iterable[str] | None = None,
) -> dict[str, str]:
    """Names without prefixes -> names in the file. Two that become equal are an error: a tensor must be there once."""
    stored: dict[str, str] = {}
    for name in file.names() if names is None else names:
        short = canonical(strip_prefixes(name, prefixes))
        if short in stored:
            raise CheckpointError(f"{file.path_of(name)} holds {short!r} twice, as {stored[short]!r} and {name!r}")
        stored[short] = name
    return stored


def check_match(
    file: TensorFile,
    stored: Mapping[str, str],
    weights: Collection[str],
    recipes: Mapping[str, Recipe],
    shapes: Mapping[str, tuple[int, ...]],
    hidden: int = 0,
) -> None:
    """Raise one CheckpointError that names the missing, unexpected or misshapen tensors.

    `weights`: source names that are no sidecars; `hidden`: rows of a fused projection's q, k and v.
    """
    needed = {source for recipe in recipes.values() for source in recipe.sources}
    missing = [source for recipe in recipes.values() for source in recipe.sources if source not in stored]
    unexpected = [stored[name] for name in weights if name not in needed]
    if missing or unexpected:
        raise CheckpointError(f"{_where(file)}: {_count(missing, unexpected, len(needed))}", hint=_ANOTHER_MODEL)
    for name, recipe in recipes.items():
        parts = [file.info(stored[source]) for source in recipe.sources]
        _check_shapes(file, name, recipe, parts, recipe.part_shapes(shapes[name], hidden))
        if len({part.dtype for part in parts}) > 1:
            raise CheckpointError(
                f"{_where(file)}: {', '.join(recipe.sources)} are stored in different types, yet form one tensor"
            )


def _where(file: TensorFile) -> str:
    paths = file.paths
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def _count(missing: list[str], unexpected: list[str], needed: int) -> str:
    said = []
    if missing:
        said.append(f"{len(missing)} of {needed} tensors missing: {_listed(missing)}")
    if unexpected:
        said.append(f"{len(unexpected)} not expected: {_listed(unexpected)}")
    return "; ".join(said)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(name[:200] for name in names[:_LISTED]) + more


def _check_shapes(
    file: TensorFile, name: str, recipe: Recipe, parts: list[TensorInfo], wanted: list[tuple[int, ...]]
) -> None:
    actual = [part.shape for part in parts]
    if recipe.kind == "matrix" and prod(actual[0][2:]) == 1:
        actual = [recipe_info(recipe, parts).shape]
    for source, shape, want in zip(recipe.sources, actual, wanted, strict=True):
        if shape != want:
            said = f"{source!r}" if source == name else f"{source!r} (official {name!r})"
            raise CheckpointError(
                f"{_where(file)}: {said} has the shape {list(shape)}; expected {list(want)}", hint=_ANOTHER_MODEL
            )
