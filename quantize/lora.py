"""LoRA files merged into the weights before they are encoded: weight += scale * alpha / rank * up @ down.

Read: kohya and musubi (`lora_unet_*`, alpha as a tensor), ComfyUI (`diffusion_model.*`, official or ComfyUI names),
diffusers (`transformer.*`, split q/k/v, alpha in the metadata), the official image-to-video trainer's (which ignores
alpha). Factors are read when their weight is merged, so a LoRA costs no memory before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from .encode import check_usable
from .fingerprint import fingerprint_files
from .readers.keymap import Recipe, comfyui_recipe, diffusers_recipe, official_recipe
from .readers.safetensors_file import SafetensorsFile, open_safetensors
from .readers.transformer_source import TransformerSource

MAX_RANK = 1024
_PREFIXES = ("lora_unet_", "Hunyuan_video_I2V_lora_", "diffusion_model.", "transformer.", "model.diffusion_model.")
_IGNORES_ALPHA = "Hunyuan_video_I2V_lora_"
_DOWN, _UP = ("lora_down", "lora_A"), ("lora_up", "lora_B")
_LEAF = re.compile(r"\.(lora_down|lora_up|lora_A|lora_B)(?:\.default)?(?:\.(\d{1,2}))?\.weight$|\.(alpha)$")
_METADATA = "lora_adapter_metadata"
_MODULE = re.compile(r"[\w.]{1,512}")  # PEFT takes regular expressions; from a file that is not trusted, only names


@dataclass(frozen=True)
class Target:
    """Rows of an official weight that a LoRA module changes; `swapped`: its halves lie the other way round there."""

    name: str
    start: int
    rows: int
    swapped: bool = False


@dataclass(frozen=True)
class Delta:
    """One low-rank change: the keys of its factors, where it goes, and alpha / rank."""

    target: Target
    up: str
    down: str
    scale: float


class Lora:
    """An open LoRA file, fitted to a transformer."""

    def __init__(self, file: SafetensorsFile, multiplier: float, source: TransformerSource) -> None:
        self._file = file
        self.multiplier = multiplier
        self._deltas: dict[str, list[Delta]] = {}
        for delta in _fit(file, source):
            self._deltas.setdefault(delta.target.name, []).append(delta)

    def touches(self, name: str) -> bool:
        """Whether the official weight `name` is changed."""
        return name in self._deltas

    def add_to(self, weight: Tensor, name: str) -> None:
        """Merge into an fp32 weight [rows, columns], in place."""
        for delta in self._deltas[name]:
            up, down = self._factor(delta.up), self._factor(delta.down)
            if delta.target.swapped:
                up = up.roll(up.shape[0] // 2, 0)
            rows = slice(delta.target.start, delta.target.start + delta.target.rows)
            weight[rows].addmm_(up, down, alpha=delta.scale * self.multiplier)

    def _factor(self, key: str) -> Tensor:
        factor = self._file.read(key)
        check_usable(key, factor.view(-1), self._file.path)
        return factor.to(torch.float32)

    def to_json(self) -> dict[str, Any]:
        """What tells this LoRA from another one."""
        return {"fingerprint": fingerprint_files([self._file.path]), "scale": self.multiplier}

    def close(self) -> None:
        self._file.close()


def open_loras(texts: tuple[str, ...], source: TransformerSource | None) -> tuple[Lora, ...]:
    """Open "FILE" or "FILE:scale" arguments for a transformer. Raises ConfigError, CheckpointError."""
    if texts and source is None:
        raise ConfigError(
            "a LoRA changes the transformer, which is not converted here", hint="leave --part out, or --lora"
        )
    return tuple(_open(text, source) for text in texts if source is not None)


def _open(text: str, source: TransformerSource) -> Lora:
    path, multiplier = parse_argument(text)
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: only LoRAs in safetensors files are read", hint="ask for its .safetensors")
    file = open_safetensors(path)
    try:
        return Lora(file, multiplier, source)
    except BaseException:
        file.close()
        raise


def parse_argument(text: str) -> tuple[Path, float]:
    """ "FILE" or "FILE:scale". Raises ConfigError for a scale that is no number."""
    name, colon, scale = text.rpartition(":")
    if not colon or Path(text).is_file():
        return Path(text).expanduser(), 1.0
    try:
        value = float(scale)
    except ValueError:
        value = float("nan")
    if not abs(value) <= 100:
        raise ConfigError(f"{scale!r} is no LoRA scale", hint="FILE, or FILE:SCALE with a number from -100 to 100")
    return Path(name).expanduser(), value


def _fit(file: SafetensorsFile, source: TransformerSource) -> Iterator[Delta]:
    """Every tensor of the file in its place. CheckpointError for one that has none."""
    table = _targets(source)
    metadata = _adapter_metadata(file)
    modules: dict[tuple[str, str], dict[str, str]] = {}
    for key in file.names():
        leaf = _LEAF.search(key)
        if not leaf:
            raise _unknown(file, key)
        kind = "alpha" if leaf[3] else "down" if leaf[1] in _DOWN else "up"
        modules.setdefault((key[: leaf.start()], leaf[2] or ""), {})[kind] = key
    for (module, part), keys in modules.items():
        if keys.keys() <= {"alpha"}:
            continue
        if not {"up", "down"} <= keys.keys():
            raise CheckpointError(f"{file.path}: {module!r} has no {'up' if 'down' in keys else 'down'} factor")
        keys.setdefault("alpha", modules.get((module, ""), {}).get("alpha", ""))
        target = _find(table, module)
        if target is None:
            raise _unknown(file, keys["up"])
        if part:
            ups = [
                modules[module, str(index)].get("up") for index in range(int(part)) if (module, str(index)) in modules
            ]
            target = _part_of(target, [file.info(up).shape[0] for up in (*ups, keys["up"]) if up])
        yield _delta(file, target, module, keys, source, metadata)


def _part_of(target: Target, rows: list[int]) -> Target:
    """The rows of one part of a module whose LoRA musubi split: `rows` of the parts up to it, itself last."""
    return replace(target, start=target.start + sum(rows[:-1]), rows=min(rows[-1], target.rows - sum(rows[:-1])))


def _delta(
    file: SafetensorsFile,
    target: Target,
    module: str,
    keys: Mapping[str, str],
    source: TransformerSource,
    metadata: Mapping[str, Any],
) -> Delta:
    up, down = file.info(keys["up"]).shape, file.info(keys["down"]).shape
    columns = source.info(target.name).shape[1]
    if (
        len(up) != 2
        or len(down) != 2
        or up != (target.rows, down[0])
        or down[1] != columns
        or not 0 < down[0] <= MAX_RANK
    ):
        expected = f"[{target.rows}, r] and [r, {columns}]"
        raise CheckpointError(
            f"{file.path}: {module!r} has factors {list(up)} and {list(down)}; expected {expected}",
            hint="the LoRA was trained for another model",
        )
    return Delta(target, keys["up"], keys["down"], _scale(file, module, keys["alpha"], down[0], metadata))


def _scale(file: SafetensorsFile, module: str, alpha_key: str, rank: int, metadata: Mapping[str, Any]) -> float:
    """alpha / rank: from the file's alpha tensor, else its metadata, else 1."""
    if module.startswith(_IGNORES_ALPHA):
        return 1.0
    if alpha_key:
        alpha = float(file.read(alpha_key).reshape(-1)[0])
        if not 0 < abs(alpha) < 1e6:
            raise CheckpointError(f"{file.path}: {alpha_key!r} is {alpha}, which is no alpha")
        return alpha / rank
    return _metadata_scale(module, rank, metadata)


def _metadata_scale(module: str, rank: int, metadata: Mapping[str, Any]) -> float:
    alpha = metadata.get("lora_alpha", rank)
    for pattern, value in (metadata.get("alpha_pattern") or {}).items():
        if f".{module}".endswith(f".{pattern}"):
            alpha = value
    scale: float = alpha / (rank**0.5 if metadata.get("use_rslora") else rank)
    return scale


def _adapter_metadata(file: SafetensorsFile) -> dict[str, Any]:
    """diffusers' settings of the adapter, from the file's metadata: alpha is nowhere else."""
    text = file.metadata.get(_METADATA)
    if text is None:
        return {}
    try:
        values = json.loads(text)
        found = {key.removeprefix("transformer."): value for key, value in values.items()}
        if not isinstance(found.get("lora_alpha", 1), int | float) or not isinstance(
            found.get("alpha_pattern") or {}, dict
        ):
            raise ValueError("alpha is not a number")
        for pattern, alpha in (found.get("alpha_pattern") or {}).items():
            if not _MODULE.fullmatch(pattern) or not isinstance(alpha, int | float):
                raise ValueError(f"{pattern!r:.80} is no module's name, or its alpha no number")
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file.path}: its {_METADATA} is malformed: {error}") from error
    return found


def _targets(source: TransformerSource) -> dict[str, Target]:
    """Every way a LoRA may call a linear layer, dotted or with underscores, and the rows it means."""
    table: dict[str, Target] = {}
    for name in source.names():
        if name.endswith(".weight") and len(source.info(name).shape) == 2:
            for spelling in (official_recipe, comfyui_recipe, diffusers_recipe):
                for module, target in _spelled(spelling(name), name, source):
                    table[module] = table[module.replace(".", "_")] = target
    return table


def _spelled(recipe: Recipe, name: str, source: TransformerSource) -> Iterator[tuple[str, Target]]:
    """The modules of one spelling, with the rows of the official weight that each of them is."""
    total, hidden = source.info(name).shape[0], source.config.hidden_size
    modules = [part.removesuffix(".weight") for part in recipe.sources]
    start = 0
    for index, module in enumerate(modules):
        rows = total - start if index == len(modules) - 1 else hidden
        yield module, Target(name, start, rows, recipe.kind == "swap_halves")
        start += rows


def _find(table: Mapping[str, Target], module: str) -> Target | None:
    """The target of a module's name with any of the prefixes in use, or none."""
    names = [module, *(module.removeprefix(prefix) for prefix in _PREFIXES if module.startswith(prefix))]
    return next((table[name] for name in names if name in table), None)


def _unknown(file: SafetensorsFile, key: str) -> CheckpointError:
    return CheckpointError(
        f"{file.path}: {key!r} changes nothing that this transformer has",
        hint="read are LoRA factors of HunyuanVideo's transformer; LoHa, LoKr, DoRA and text encoder LoRAs are not",
    )
