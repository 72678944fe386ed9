"""The flags of the official command line that have one possible value here: taken at that value, refused at others.

Flags with a meaning of their own (`--video-size`, `--infer-steps`, ...) are ordinary options of `hvlite generate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import ConfigError

# What follows these is a person's text, whatever it looks like.
TEXT_OPTIONS = frozenset({"--prompt", "--neg-prompt", "--negative-prompt", "--prompt-file", "--output", "-o"})


SIZE_OPTIONS = ("--video-size", "--size")


@dataclass(frozen=True)
class OfficialFlag:
    """One flag: the values it may have (None: it is a switch), why no others, and what to do instead.

    `note` is told when the flag is given: it says what hvlite does where that is not what the flag asks for.
    `shared`: hvlite has an option of that name too, which takes all other values.
    """

    name: str
    values: tuple[str, ...] | None
    why: str
    instead: str = "leave the flag out"
    note: str | None = None
    refused: bool = False
    shared: bool = False

    def check(self, value: str) -> None:
        """Raise ConfigError where the flag, or its value, cannot be honoured."""
        if self.refused or (self.values is not None and value not in self.values):
            raise ConfigError(f"{self.name} {value}".rstrip() + f": {self.why}", hint=self.instead)


_FROM_WEIGHTS = "hvlite reads this from the weights"
_OWN_FOLDER = "the model's folder says which one it has"
_TEMPLATE = "the template and its crop belong to the model"
_I2V = "image-to-video is not supported: this is the text-to-video model"
_LORA = "LoRA weights are not supported in this version"
_ONE_DEVICE = "hvlite runs on one device"
_PRECISIONS = ("fp32", "fp16", "bf16")
_PART_PRECISION = "every part runs in the precision of the run (fp32 on a CPU)"

FIXED_FLAGS: tuple[OfficialFlag, ...] = (
    OfficialFlag(
        "--model",
        ("HYVideo-T/2-cfgdistill", "HYVideo-T/2"),
        "",
        note="the architecture is read from the weights; --model-base FOLDER names the model",
        shared=True,
    ),
    OfficialFlag("--latent-channels", ("16",), "HunyuanVideo's latents have 16 channels"),
    OfficialFlag("--rope-theta", ("256",), _FROM_WEIGHTS, "--model-config FILE sets rope_theta of another model"),
    OfficialFlag("--vae", ("884-16c-hy",), _OWN_FOLDER),
    OfficialFlag("--vae-precision", _PRECISIONS, "not a precision", "fp32, fp16 or bf16", note=_PART_PRECISION),
    OfficialFlag("--text-encoder", ("llm",), _OWN_FOLDER),
    OfficialFlag("--text-encoder-precision", _PRECISIONS, "not a precision", "fp32, fp16 or bf16", _PART_PRECISION),
    OfficialFlag("--text-states-dim", ("4096",), _FROM_WEIGHTS),
    OfficialFlag("--text-len", ("256",), "256 tokens are what the model was trained with"),
    OfficialFlag("--tokenizer", ("llm",), _OWN_FOLDER),
    OfficialFlag("--prompt-template", ("dit-llm-encode",), _TEMPLATE),
    OfficialFlag("--prompt-template-video", ("dit-llm-encode-video",), _TEMPLATE),
    OfficialFlag("--hidden-state-skip-layer", ("2",), "the model was trained on the third last hidden states"),
    OfficialFlag("--apply-final-norm", None, "the model was trained on states before the norm", refused=True),
    OfficialFlag("--text-encoder-2", ("clipL",), _OWN_FOLDER),
    OfficialFlag("--text-encoder-precision-2", _PRECISIONS, "not a precision", "fp32, fp16 or bf16", _PART_PRECISION),
    OfficialFlag("--text-states-dim-2", ("768",), _FROM_WEIGHTS),
    OfficialFlag("--tokenizer-2", ("clipL",), _OWN_FOLDER),
    OfficialFlag("--text-len-2", ("77",), "77 tokens are what CLIP was trained with"),
    OfficialFlag("--denoise-type", ("flow",), "HunyuanVideo is a flow matching model"),
    OfficialFlag("--flow-solver", ("euler",), "the Euler solver is the one there is"),
    OfficialFlag(
        "--use-linear-quadratic-schedule",
        None,
        "the schedule is the shifted linear one",
        "leave the flag out; --flow-shift shapes the schedule",
        refused=True,
    ),
    OfficialFlag("--linear-schedule-end", ("25",), "it belongs to a schedule hvlite does not have"),
    OfficialFlag("--load-key", ("module",), "the released file holds one set of weights, under `module`"),
    OfficialFlag("--batch-size", ("1",), "videos are made one after the other", "--num-videos N makes several"),
    OfficialFlag(
        "--use-cpu-offload", None, "", note="nothing more to offload: each part's weights are let go after its stage"
    ),
    OfficialFlag("--disable-autocast", None, "", note="hvlite uses no autocast; --precision sets the arithmetic"),
    OfficialFlag("--reproduce", None, "", note="every run is reproducible: equal settings and seed, equal latents"),
    OfficialFlag(
        "--seed-type", ("auto",), "hvlite takes seeds from --seed alone", "--seed N fixes it; without, one is drawn"
    ),
    OfficialFlag("--ulysses-degree", ("1",), _ONE_DEVICE),
    OfficialFlag("--ring-degree", ("1",), _ONE_DEVICE),
    OfficialFlag("--i2v-mode", None, _I2V, refused=True),
    OfficialFlag("--i2v-image-path", (), _I2V, refused=True),
    OfficialFlag("--i2v-resolution", (), _I2V, refused=True),
    OfficialFlag("--i2v-condition-type", (), _I2V, refused=True),
    OfficialFlag("--i2v-stability", None, _I2V, refused=True),
    OfficialFlag("--use-lora", None, _LORA, refused=True),
    OfficialFlag("--lora-path", (), _LORA, refused=True),
)
_BY_NAME = {flag.name: flag for flag in FIXED_FLAGS}


def take_official_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Check and remove the flags above: (the arguments that are left, what the user should be told).

    Raises ConfigError for a value hvlite cannot honour. What follows `--` is not looked at.
    """
    left: list[str] = []
    notes: list[str] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument == "--":
            return left + list(arguments[position:]), notes
        name, joined, value = argument.partition("=")
        flag = _BY_NAME.get(name)
        if flag is not None and not joined:
            value = _next_value(flag, arguments, position)
        if flag is None or (flag.shared and value not in (flag.values or ())):
            taken = 2 if argument in TEXT_OPTIONS else 1
            left += arguments[position : position + taken]
            position += taken
            continue
        flag.check(value)
        if flag.note:
            notes.append(f"{flag.name}: {flag.note}")
        position += 1 if flag.values is None or joined else 2
    return left, notes


def official_summary() -> str:
    """The accepted flags and values, for the help page."""
    accepted = [flag for flag in FIXED_FLAGS if not flag.refused and flag.values != ()]
    return ", ".join(f"{flag.name} {'|'.join(flag.values or ())}".rstrip() for flag in accepted)


def _next_value(flag: OfficialFlag, arguments: Sequence[str], position: int) -> str:
    if flag.values is None:
        return ""
    if position + 1 >= len(arguments):
        raise ConfigError(f"{flag.name} needs a value", hint=f"{flag.name} {' or '.join(flag.values)}".rstrip())
    return arguments[position + 1]


def spell_out_size(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--size 80x96` as 80 96, and `--size 512` as 512 512, which the official command takes."""
    spelled: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return spelled + list(arguments[position:])
        after = arguments[position + 1] if position + 1 < len(arguments) else ""
        name, joined, value = argument.partition("=")
        if joined and name in SIZE_OPTIONS:
            spelled += [name, *_sides(value, after)]
        elif position and arguments[position - 1] in SIZE_OPTIONS:
            spelled += _sides(argument, after)
        else:
            spelled.append(argument)
    return spelled


def _sides(text: str, after: str) -> list[str]:
    """Height and width where `text` says both; `after` is the next argument."""
    sides = text.lower().split("x")
    if len(sides) == 2 and all(map(_is_number, sides)):
        return sides
    return [text, text] if _is_number(text) and not _is_number(after) else [text]


def _is_number(text: str) -> bool:
    return text.lstrip("+-").isdecimal()
