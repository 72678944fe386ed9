"""A model's own defaults: the size, length and sampling it was made for, and the text around its prompts.

A model folder may carry them as `hvlite_card.json` (the demo model does); a folder without one gets the values of the
released 13B model. No torch here: a card is read before anything heavy is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..files import read_json

CARD_NAME = "hvlite_card.json"
CARD_LIMIT_BYTES = 1 << 20
LATENT_CHANNELS = 16

Size = tuple[int, int]


@dataclass(frozen=True)
class PromptTemplate:
    """The text a prompt is set into before the language model reads it.

    `crop_start` leading tokens (the template's own) are dropped from the hidden states; of what follows, the first
    `max_length` tokens are kept.
    """

    template: str
    crop_start: int
    max_length: int

    def __post_init__(self) -> None:
        _require(isinstance(self.template, str) and self.template.count("{}") == 1, "template: one '{}' for the prompt")
        _require(_is_int(self.crop_start) and self.crop_start >= 0, "crop_start: a whole number from 0")
        _require(_is_int(self.max_length) and self.max_length >= 1, "max_length: a whole number from 1")

    def format(self, prompt: str) -> str:
        """The prompt inside the template; braces in the prompt stay what they are."""
        head, tail = self.template.split("{}")
        return head + prompt + tail


@dataclass(frozen=True)
class LatentRgb:
    """A linear picture of latents: rgb[c] = bias[c] + sum over k of weight[c][k] * latent[k], rgb in 0..1.

    Latents as the transformer sees them (already multiplied by the VAE's scaling factor); weight is [3][16], bias [3].
    """

    weight: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]

    def __post_init__(self) -> None:
        rows_right = len(self.weight) == 3 and all(len(row) == LATENT_CHANNELS for row in self.weight)
        _require(rows_right, f"latent_rgb.weight: 3 rows of {LATENT_CHANNELS} numbers")
        _require(len(self.bias) == 3, "latent_rgb.bias: 3 numbers")


@dataclass(frozen=True)
class ModelCard:
    """What a model is called and what it does when a request leaves something open."""

    name: str
    height: int
    width: int
    frames: int
    steps: int
    guidance_scale: float
    flow_shift: float
    fps: int
    sizes: tuple[Size, ...]
    prompt_template: PromptTemplate
    image_template: PromptTemplate
    latent_rgb: LatentRgb | None = None

    def __post_init__(self) -> None:
        _require(
            isinstance(self.name, str) and self.name.isprintable() and bool(self.name.strip()), "name: a word or two"
        )
        for field in ("height", "width", "frames", "steps", "fps"):
            value = getattr(self, field)
            _require(_is_int(value) and value >= 1, f"{field}: a whole number from 1")
        for field in ("guidance_scale", "flow_shift"):
            _require(0 < getattr(self, field) < 1e6, f"{field}: a number above 0")
        for height, width in (*self.sizes, (self.height, self.width)):
            _require(min(height, width) > 0 and height % 16 == 0 and width % 16 == 0, "sizes: multiples of 16")
        _require(self.frames % 4 == 1, "frames: 4k+1")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelCard:
        """The card in a JSON object with the field names above; raises CheckpointError naming what is wrong."""
        known = {field.name for field in fields(cls)}
        missing = sorted(known - set(data) - {"latent_rgb"})
        unknown = sorted(set(data) - known)
        _require(not missing, f"missing: {', '.join(missing)}")
        _require(not unknown, f"unknown: {', '.join(unknown)}")
        values = dict(data)
        values["guidance_scale"] = _number(data["guidance_scale"], "guidance_scale")
        values["flow_shift"] = _number(data["flow_shift"], "flow_shift")
        values["sizes"] = tuple(_size(item) for item in _list(data["sizes"], "sizes"))
        values["prompt_template"] = _template(data["prompt_template"], "prompt_template")
        values["image_template"] = _template(data["image_template"], "image_template")
        values["latent_rgb"] = None if data.get("latent_rgb") is None else _latent_rgb(data["latent_rgb"])
        return cls(**values)


def load_card(model: Path | None) -> ModelCard:
    """The card of a model folder, or of the folder a single file lies in; None is the demo model."""
    root = demo_root() if model is None else Path(model)
    path = (root if root.is_dir() else root.parent) / CARD_NAME
    if not path.is_file():
        return OFFICIAL_CARD
    data = read_json(path, limit_bytes=CARD_LIMIT_BYTES)
    try:
        _require(isinstance(data, dict), "a JSON object")
        return ModelCard.from_json(data)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path}: not a valid model card ({error.message})",
            hint="restore the file that came with the model, or remove it to use the 13B model's defaults",
        ) from None


def named_model(model: Path | str | None) -> Path | None:
    """The folder or file meant; None for the model that ships, which the word `demo` names as well.

    A folder of that name is `./demo`, or in Python Path("demo"). ConfigError for the home folder of nobody.
    """
    try:
        return None if model is None or model == "demo" else Path(model).expanduser()
    except RuntimeError:
        raise ConfigError(f"{model}: there is no such home folder", hint="check the path") from None


def demo_root() -> Path:
    """The folder of the model that ships with the package."""
    return Path(__file__).resolve().parent.parent / "demo" / "weights"


def _require(condition: bool, expected: str) -> None:
    if not condition:
        raise CheckpointError(f"model card: {expected}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"model card: {what}: a number")
    return float(value)


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise CheckpointError(f"model card: {what}: a list")
    return value


def _size(item: object) -> Size:
    pair = _list(item, "sizes")
    _require(len(pair) == 2 and all(_is_int(value) for value in pair), "sizes: [height, width] pairs")
    return pair[0], pair[1]


def _template(value: object, what: str) -> PromptTemplate:
    names = {field.name for field in fields(PromptTemplate)}
    if not isinstance(value, dict) or set(value) != names:
        raise CheckpointError(f"model card: {what}: an object with {', '.join(sorted(names))}")
    return PromptTemplate(**value)


def _latent_rgb(value: object) -> LatentRgb:
    if not isinstance(value, dict) or set(value) != {"weight", "bias"}:
        raise CheckpointError("model card: latent_rgb: an object with weight and bias")
    rows = (_list(row, "latent_rgb.weight") for row in _list(value["weight"], "latent_rgb.weight"))
    weight = tuple(tuple(_number(item, "latent_rgb.weight") for item in row) for row in rows)
    return LatentRgb(
        weight, tuple(_number(item, "latent_rgb.bias") for item in _list(value["bias"], "latent_rgb.bias"))
    )


OFFICIAL_SIZES: dict[str, dict[str, Size]] = {
    "720p": {"16:9": (720, 1280), "9:16": (1280, 720), "4:3": (832, 1104), "3:4": (1104, 832), "1:1": (960, 960)},
    "540p": {"16:9": (544, 960), "9:16": (960, 544), "4:3": (624, 832), "3:4": (832, 624), "1:1": (720, 720)},
}
"""The ten sizes the 13B model was made for, (height, width) by resolution and aspect."""

_OFFICIAL_VIDEO_TEMPLATE = PromptTemplate(
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing the following aspects: "
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
    crop_start=95,
    max_length=256,
)

# The official code cuts the image template's text at the video template's 351 tokens: 315 are left after its crop.
_OFFICIAL_IMAGE_TEMPLATE = PromptTemplate(
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
    crop_start=36,
    max_length=315,
)

OFFICIAL_CARD = ModelCard(
    name="HunyuanVideo 13B",
    height=720,
    width=1280,
    frames=129,
    steps=50,
    guidance_scale=6.0,
    flow_shift=7.0,
    fps=24,
    sizes=tuple(size for by_aspect in OFFICIAL_SIZES.values() for size in by_aspect.values()),
    prompt_template=_OFFICIAL_VIDEO_TEMPLATE,
    image_template=_OFFICIAL_IMAGE_TEMPLATE,
)
