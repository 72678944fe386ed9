"""What quantization costs, end to end on one model: the transformer's output at every step, the text, what videos show.

    python -m hvlite.benchmarks.quality                     # the model that ships with hvlite
    python -m hvlite.benchmarks.quality --prompts 64        # with the share of prompts that come out right

The transformer is compared on the latents of the unquantized run, so that every step sees the same input; the final
latents compare the two runs left to themselves. "dequantize" widens the weights, "w8a8" also quantizes every token's
activations and sums as the kernels do. Everything runs in fp32 on the CPU. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from ..lite.arithmetic import Arithmetic
from ..lite.card import demo_root, load_card
from ..lite.checkpoint import load_text_encoders, load_transformer
from ..lite.config import GenerateConfig
from ..lite.models.linear import QuantLinear
from ..lite.models.transformer import HunyuanVideoTransformer
from ..lite.sampling import flow_schedule, guidance_input, initial_latents
from ..lite.text import PromptEmbeds
from ..quantize.convert import QuantizeOptions, run_quantize

PROMPTS = (
    "a red circle moves to the right",
    "a blue star goes up on a black background",
    "a small yellow square grows",
)
TRANSFORMERS = ("bf16", "fp8", "fp8:mse", "int8", "int8:mse", "mixed")
TEXT_ENCODERS = ("int8", "int4", "int4:mse", "nf4")


@dataclass(frozen=True)
class TransformerQuality:
    """A quantized transformer against the unquantized one: cosines of its output by step (least over the prompts)."""

    scheme: str
    arithmetic: str
    least_cosine: float
    mean_relative_error: float
    final_latents_cosine: float
    cosine_by_step: tuple[float, ...]


@dataclass(frozen=True)
class TextQuality:
    """A quantized language model: cosines of the states of the prompts' tokens."""

    scheme: str
    mean_cosine: float
    least_cosine: float


@dataclass(frozen=True)
class Trajectory:
    """What the unquantized transformer saw and said at every step of one video."""

    embeds: PromptEmbeds
    config: GenerateConfig
    latents: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def compare_transformers(
    model: Path, folders: dict[str, Path], config: dict[str, Any] | None = None
) -> list[TransformerQuality]:
    """Every scheme's folder against `model`, in both arithmetics."""
    trajectories = [trajectory_of(model, prompt, seed, config) for seed, prompt in enumerate(PROMPTS)]
    results = []
    for scheme, folder in folders.items():
        transformer = load_transformer(folder, config=config)
        for arithmetic in ("dequantize", "w8a8") if scheme != "bf16" else ("dequantize",):
            set_arithmetic(transformer, "w8a8" if arithmetic == "w8a8" else "dequantize")
            results.append(_compare(scheme, arithmetic, transformer, trajectories))
    return results


def set_arithmetic(model: nn.Module, arithmetic: Arithmetic) -> None:
    """Choose how the quantized layers of a model multiply."""
    for module in model.modules():
        if isinstance(module, QuantLinear):
            module.arithmetic = arithmetic


@torch.no_grad()
def trajectory_of(model: Path, prompt: str, seed: int, config: Mapping[str, Any] | None) -> Trajectory:
    """The unquantized run of a prompt."""
    settings = GenerateConfig.from_card(load_card(model), prompt=prompt, seed=seed)
    embeds = load_text_encoders(model).encode(settings.prompt)
    transformer = load_transformer(model, config=config)
    steps = list(_run(transformer, embeds, settings))
    return Trajectory(embeds, settings, tuple(latents for latents, _ in steps), tuple(output for _, output in steps))


def _run(
    transformer: HunyuanVideoTransformer, embeds: PromptEmbeds, config: GenerateConfig
) -> Iterator[tuple[Tensor, Tensor]]:
    """The latents before every step and the prediction there; last the final latents and nothing."""
    schedule = flow_schedule(config.steps, config.flow_shift, reverse=config.flow_reverse)
    latents = initial_latents(config)
    for index, timestep in enumerate(schedule.timesteps):
        output = predict(transformer, embeds, config, latents, timestep)
        yield latents, output
        latents = latents + output * (schedule.sigmas[index + 1] - schedule.sigmas[index])
    yield latents, torch.empty(0)


def predict(
    transformer: HunyuanVideoTransformer,
    embeds: PromptEmbeds,
    config: GenerateConfig,
    latents: Tensor,
    timestep: Tensor,
) -> Tensor:
    """The transformer's output for these latents at this timestep."""
    guidance = guidance_input(config.guidance_scale, torch.float32) if transformer.config.guidance_embed else None
    output: Tensor = transformer(
        latents=latents,
        timestep=timestep[None],
        guidance=guidance,
        prompt_embeds=embeds.prompt_embeds,
        prompt_mask=embeds.prompt_mask,
        pooled_prompt_embeds=embeds.pooled_prompt_embeds,
    )
    return output


@torch.no_grad()
def _compare(
    scheme: str, arithmetic: str, transformer: HunyuanVideoTransformer, trajectories: list[Trajectory]
) -> TransformerQuality:
    cosines: list[list[float]] = []
    errors, finals = [], []
    for each in trajectories:
        timesteps = flow_schedule(each.config.steps, each.config.flow_shift, reverse=each.config.flow_reverse).timesteps
        row = []
        for latents, wanted, timestep in zip(each.latents, each.outputs, timesteps, strict=False):
            output = predict(transformer, each.embeds, each.config, latents, timestep)
            row.append(cosine_of(output, wanted))
            errors.append(float((output - wanted).norm() / wanted.norm()))
        cosines.append(row)
        *_, (final, _) = _run(transformer, each.embeds, each.config)
        finals.append(cosine_of(final, each.latents[-1]))
    by_step = tuple(min(column) for column in zip(*cosines, strict=True))
    return TransformerQuality(scheme, arithmetic, min(by_step), mean(errors), min(finals), by_step)


def cosine_of(one: Tensor, other: Tensor) -> float:
    """Of two tensors as vectors."""
    return float(torch.nn.functional.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0))


@torch.no_grad()
def compare_text(model: Path, folders: dict[str, Path]) -> list[TextQuality]:
    """Every scheme's language model against the unquantized one, token by token."""
    wanted = load_text_encoders(model).encode(PROMPTS)
    valid = wanted.prompt_mask.bool()
    results = []
    for scheme, folder in folders.items():
        found = load_text_encoders(folder).encode(PROMPTS)
        cosines = torch.nn.functional.cosine_similarity(found.prompt_embeds, wanted.prompt_embeds, dim=-1)[valid]
        results.append(TextQuality(scheme, float(cosines.mean()), float(cosines.min())))
    return results


def accuracies(model: Path, prompts: int, arithmetic: Arithmetic = "dequantize") -> dict[str, float]:
    """Shares of the held-out prompts of the demo whose video shows the colour, the motion and the shape asked for."""
    from .. import load
    from ..demo.evaluate import cases, judge

    pipeline = load(model, device="cpu", keep_loaded=True)
    with pipeline.parts.transformer() as loaded:
        set_arithmetic(loaded.model, arithmetic)
    outcomes = [
        judge(case, pipeline.generate(case.prompt, seed=1000 + case.index).frames, 0.0) for case in cases(prompts)
    ]
    return {name: mean(getattr(each, name) for each in outcomes) for name in ("colour", "motion", "shape")}


def convert_all(model: Path, work: Path, option: str, schemes: tuple[str, ...]) -> dict[str, Path]:
    """The model in several schemes; the other part stays as it is, so that only one thing is compared."""
    kept = QuantizeOptions(model, work, transformer="bf16", text_encoder="bf16", vae="fp32")
    folders = {}
    for scheme in schemes:
        folders[scheme] = work / f"{option}-{scheme.replace(':', '-')}"
        chosen: dict[str, Any] = {option: scheme, "output": folders[scheme]}
        run_quantize(replace(kept, **chosen))
    return folders


def measure(model: Path, work: Path, prompts: int) -> dict[str, Any]:
    """All comparisons of a model; `prompts` 0 leaves out what videos show."""
    transformers = convert_all(model, work, "transformer", TRANSFORMERS)
    texts = convert_all(model, work, "text_encoder", TEXT_ENCODERS)
    results: dict[str, Any] = {
        "model": load_card(model).name,
        "torch": torch.__version__,
        "transformer": [asdict(each) for each in compare_transformers(model, transformers)],
        "text_encoder": [asdict(each) for each in compare_text(model, texts)],
    }
    if prompts:
        results["prompts"] = prompts
        results["videos"] = dict(_videos(model, transformers, texts, prompts))
    return results


def _videos(
    model: Path, transformers: dict[str, Path], texts: dict[str, Path], prompts: int
) -> Iterator[tuple[str, dict[str, float]]]:
    yield "unquantized", accuracies(model, prompts)
    for scheme in ("fp8", "int8", "mixed"):
        yield f"{scheme} w8a8", accuracies(transformers[scheme], prompts, "w8a8")
    yield "nf4 text", accuracies(texts["nf4"], prompts)


def table(results: dict[str, Any]) -> str:
    """The results as markdown."""
    lines = [
        "| transformer | arithmetic | least cosine | mean relative error | final latents |",
        "|---|---|--:|--:|--:|",
    ]
    for row in results["transformer"]:
        numbers = f"{row['least_cosine']:.6f} | {row['mean_relative_error']:.4f} | {row['final_latents_cosine']:.5f}"
        lines.append(f"| {row['scheme']} | {row['arithmetic']} | {numbers} |")
    lines += ["", "| language model | mean cosine | least cosine |", "|---|--:|--:|"]
    for row in results["text_encoder"]:
        lines.append(f"| {row['scheme']} | {row['mean_cosine']:.5f} | {row['least_cosine']:.5f} |")
    if "videos" in results:
        lines += ["", f"| {results['prompts']} held-out prompts | colour | motion | shape |", "|---|--:|--:|--:|"]
        for name, row in results["videos"].items():
            lines.append(f"| {name} | {row['colour']:.1%} | {row['motion']:.1%} | {row['shape']:.1%} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=None, help="a model folder; the shipped one without it")
    parser.add_argument("--prompts", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="write the figures here, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        results = measure(arguments.model or demo_root(), Path(work), arguments.prompts)
    print(table(results))
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
