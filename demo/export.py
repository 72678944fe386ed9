"""Write the trained parts as a model folder in the official layout: `python -m hvlite.demo.export`."""

from __future__ import annotations

import argparse
import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..lite.card import CARD_NAME, LatentRgb, ModelCard
from ..lite.models.vae import AutoencoderKLCausal3D
from . import data, vocabulary
from .encode import encode_scenes, whiten
from .model import SKIPPED_LAYERS, TRAINED_LAYERS, TRANSFORMER, DemoModel, llm_config
from .train_vae import CONFIG

SIZES = ((80, 80), (64, 96), (96, 64), (64, 64), (96, 96))


def export_vae(folder: Path, vae: AutoencoderKLCausal3D) -> None:
    """`vae/pytorch_model.pt` in fp16, as the official code runs it, and its config."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(
        {name: tensor.half().contiguous() for name, tensor in vae.state_dict().items()}, folder / "pytorch_model.pt"
    )
    write_json(folder / "config.json", {"_class_name": "AutoencoderKLCausal3D", "act_fn": "silu", **asdict(vae.config)})


def export_transformer(folder: Path, model: DemoModel) -> None:
    """The `.pt` in bf16 under "module", and a config.json for what shapes cannot say."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.bfloat16().contiguous() for name, tensor in model.transformer.state_dict().items()}
    torch.save({"module": tensors}, folder / "mp_rank_00_model_states.pt")
    write_json(folder / "config.json", asdict(TRANSFORMER))


def export_text(root: Path, model: DemoModel, tokenizers: Path) -> None:
    """Both text encoders in fp16. Two silent layers are appended: the official rule reads before the last two.

    The tokenizers are those of the training: learning them again would give other ids.
    """
    from transformers import LlamaModel

    llm: Any = LlamaModel(llm_config(TRAINED_LAYERS + SKIPPED_LAYERS))
    with torch.no_grad():
        for layer in llm.layers[TRAINED_LAYERS:]:
            for name, param in layer.named_parameters():
                param.fill_(1.0 if "norm" in name else 0.0)
    llm.load_state_dict(model.llm.state_dict(), strict=False)
    llm.half().save_pretrained(root / "text_encoder")
    model.clip.half().save_pretrained(root / "text_encoder_2")
    for name in ("text_encoder", "text_encoder_2"):
        shutil.copyfile(tokenizers / name / "tokenizer.json", root / name / "tokenizer.json")
    marks = {"bos_token": vocabulary.BEGIN, "eos_token": vocabulary.END, "pad_token": vocabulary.PAD}
    clip_marks = {
        "bos_token": vocabulary.CLIP_BEGIN,
        "eos_token": vocabulary.CLIP_END,
        "pad_token": vocabulary.CLIP_END,
    }
    for name, tokens in (("text_encoder", marks), ("text_encoder_2", clip_marks)):
        write_json(root / name / "special_tokens_map.json", tokens)
        kind = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "right", "model_max_length": 128}
        write_json(root / name / "tokenizer_config.json", {**tokens, **kind})


def fit_latent_rgb(vae: AutoencoderKLCausal3D, scenes: int = 64) -> LatentRgb:
    """The linear map from a latent cell to its mean colour (0..1) that errs least on rendered scenes."""
    rng = random.Random(3)
    some, canvas = [data.sample_scene(rng) for _ in range(scenes)], (17, 80, 80)
    latents = encode_scenes(vae, some, canvas).float() * vae.config.scaling_factor
    videos = torch.stack([data.render(scene, *canvas) for scene in some]) / 2 + 0.5
    first, rest = F.avg_pool3d(videos[:, :, :1], (1, 8, 8)), F.avg_pool3d(videos[:, :, 1:], (4, 8, 8))
    colours = torch.cat([first, rest], dim=2)
    inputs = torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1)
    solution = torch.linalg.lstsq(_rows(inputs), _rows(colours)).solution.T
    weight = tuple(tuple(round(float(v), 5) for v in row[:-1]) for row in solution)
    return LatentRgb(weight, tuple(round(float(row[-1]), 5) for row in solution))


def _rows(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1).T


def card(latent_rgb: LatentRgb) -> ModelCard:
    """The demo model's own defaults."""
    return ModelCard(
        name="hvlite-demo",
        height=80,
        width=80,
        frames=17,
        steps=20,
        guidance_scale=6.0,
        flow_shift=5.0,
        fps=8,
        sizes=SIZES,
        prompt_template=vocabulary.TEMPLATE,
        image_template=vocabulary.TEMPLATE,
        latent_rgb=latent_rgb,
    )


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Indented, with a final newline."""
    path.write_text(json.dumps(value, indent=2) + "\n")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--statistics", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="by hvlite.demo.distil")
    parser.add_argument("--tokenizers", type=Path, required=True, help="the folder the transformer was trained with")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    vae = AutoencoderKLCausal3D(CONFIG)
    vae.load_state_dict(torch.load(args.vae, weights_only=True))
    whiten(vae, *torch.load(args.statistics, weights_only=True))
    model = DemoModel()
    model.load_state_dict(torch.load(args.model, weights_only=True))
    base = args.out / "hunyuan-video-t2v-720p"
    export_vae(base / "vae", vae)
    export_transformer(base / "transformers", model)
    export_text(args.out, model, args.tokenizers)
    write_json(args.out / CARD_NAME, asdict(card(fit_latent_rgb(vae))))


if __name__ == "__main__":
    main()
