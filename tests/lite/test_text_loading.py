"""Loading text encoders: every layout they come in, and what is wrong with a folder said by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hvlite.errors import CheckpointError
from hvlite.lite.card import OFFICIAL_CARD
from hvlite.lite.encoders.tokenizer_files import load_tokenizers
from hvlite.lite.text import TextEncoders, load_text_encoders
from hvlite.quantize.readers.locate import locate

PROMPT = "A cat walks on the grass, realistic style."


@pytest.fixture
def model(golden: Path, tmp_path: Path) -> Path:
    """A writable copy of the official tree."""
    shutil.copytree(golden / "ckpts_official", tmp_path / "model", copy_function=shutil.copyfile)
    return tmp_path / "model"


def load(root: Path) -> TextEncoders:
    return load_text_encoders(locate(root), OFFICIAL_CARD)


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_whole_llava_folder_gives_the_same_states(golden: Path, model: Path) -> None:
    folder = model / "text_encoder"
    tensors = {f"language_model.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    tensors["vision_tower.vision_model.embeddings.class_embedding"] = torch.zeros(8)
    tensors["multi_modal_projector.linear_1.weight"] = torch.zeros(48, 8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    inner = json.loads((folder / "config.json").read_text())
    config = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": inner}
    (folder / "config.json").write_text(json.dumps(config))
    found = load(model).encode(PROMPT)
    assert torch.equal(
        found.prompt_embeds,
        load(golden / "ckpts_official").encode(PROMPT).prompt_embeds,
    )


def test_a_config_of_transformers_5_gives_the_same_states(golden: Path, model: Path) -> None:
    def modernize(config: dict[str, Any]) -> None:
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
        config["dtype"] = config.pop("torch_dtype")
        config["return_dict"] = False
        del config["rope_scaling"]

    edit_json(model / "text_encoder" / "config.json", modernize)
    found = load(model).encode(PROMPT)
    assert torch.equal(
        found.prompt_embeds,
        load(golden / "ckpts_official").encode(PROMPT).prompt_embeds,
    )


def test_layers_behind_the_used_state_are_not_read(golden: Path, model: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.4.mlp.up_proj.weight"].fill_(float("nan"))
        tensors["model.norm.weight"].fill_(float("nan"))

    edit_tensors(model / "text_encoder" / "model.safetensors", spoil)
    assert load(model).encode(PROMPT).prompt_embeds.isfinite().all()


def test_clip_pools_at_the_true_end_id_as_at_the_legacy_one(golden: Path, model: Path) -> None:
    edit_json(model / "text_encoder_2" / "config.json", lambda config: config["text_config"].update(eos_token_id=673))
    found = load(model).encode(PROMPT).pooled_prompt_embeds
    assert torch.equal(found, load(golden / "ckpts_official").encode(PROMPT).pooled_prompt_embeds)


def test_a_start_token_left_to_the_tokenizer_class_is_put(golden: Path, model: Path) -> None:
    path = model / "text_encoder" / "tokenizer.json"
    edit_json(path, lambda data: data.update(post_processor=None))
    reference = load_tokenizers(locate(golden / "ckpts_official"), OFFICIAL_CARD).video.encode(PROMPT)
    assert load_tokenizers(locate(model), OFFICIAL_CARD).video.encode(PROMPT) == reference
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        edit_json(model / "text_encoder" / name, lambda data: data.pop("bos_token"))
    with pytest.raises(CheckpointError, match="begins with 94 tokens, crop_start is 95"):
        load_tokenizers(locate(model), OFFICIAL_CARD)


def test_clip_tokenizer_json_gives_the_ids_of_vocab_and_merges(golden: Path, model: Path) -> None:
    from transformers import CLIPTokenizer

    folder = model / "text_encoder_2"
    reference = load_tokenizers(locate(model), OFFICIAL_CARD).clip
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    assert (folder / "tokenizer.json").is_file()
    clip = load_tokenizers(locate(model), OFFICIAL_CARD).clip
    for prompt in (
        PROMPT,
        "",
        "猫が走る café 😀 2024-12-03",
        "<|endoftext|> IT'S   a\tFox <|startoftext|>",
        "fox " * 100,
    ):
        assert clip.encode(prompt).ids == reference.encode(prompt).ids


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("text_encoder/tokenizer.json", "tokenizer"),
        ("text_encoder_2/merges.txt", "merges.txt"),
        ("text_encoder_2/vocab.json", "vocab.json|tokenizer_2"),
    ],
)
def test_a_missing_tokenizer_file_is_named(model: Path, file: str, names: str) -> None:
    (model / file).unlink()
    with pytest.raises(CheckpointError, match=names):
        load_tokenizers(locate(model), OFFICIAL_CARD)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("text_encoder/tokenizer.json", b"{"),
        ("text_encoder/tokenizer.json", b"\xff\xfe"),
        ("text_encoder/tokenizer.json", b'{"version": "1.0", "model": {"type": "BPE"}}'),
        ("text_encoder/tokenizer_config.json", b"[1, "),
        ("text_encoder_2/vocab.json", b"[]"),
        ("text_encoder_2/vocab.json", b'{"<|startoftext|>": "x", "<|endoftext|>": 1}'),
        ("text_encoder_2/merges.txt", b"one two three\n"),
        ("text_encoder_2/merges.txt", b"not inthevocab\n"),
        ("text_encoder_2/config.json", b'{"text_config": {"max_position_embeddings": -1}}'),
        ("text_encoder_2/config.json", b'{"text_config": []}'),
    ],
)
def test_a_malformed_tokenizer_file_is_named(model: Path, file: str, content: bytes) -> None:
    (model / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=Path(file).parent.name):
        load_tokenizers(locate(model), OFFICIAL_CARD)


def test_a_tokenizer_that_makes_the_library_panic_is_named(model: Path) -> None:
    def spoil(data: dict[str, Any]) -> None:
        data["post_processor"]["processors"][1]["special_tokens"] = {}

    path = model / "text_encoder" / "tokenizer.json"
    edit_json(path, spoil)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizers(locate(model), OFFICIAL_CARD)


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 2},
        {"num_hidden_layers": "many"},
        {"hidden_act": "shrug"},
        {"num_attention_heads": 0},
        {"hidden_size": 96},
        {"vocab_size": 10},
        {"rope_scaling": {"rope_type": "spiral"}},
        {"model_type": "mistral"},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"head_dim": 24},
    ],
)
def test_a_config_that_cannot_be_right_is_a_checkpoint_error(model: Path, change: dict[str, Any]) -> None:
    edit_json(model / "text_encoder" / "config.json", lambda config: config.update(change))
    with pytest.raises(CheckpointError, match="text_encoder"):
        load(model)


def test_a_tensor_that_is_not_finite_is_named(model: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    edit_tensors(model / "text_encoder" / "model.safetensors", lambda t: t[name][3, 5].fill_(float("inf")))
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        load(model)


def test_a_missing_tensor_is_named(model: Path) -> None:
    name = "text_model.encoder.layers.1.mlp.fc1.bias"
    edit_tensors(model / "text_encoder_2" / "model.safetensors", lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=r"encoder\.layers\.1\.mlp\.fc1\.bias"):
        load(model)


def test_a_tokenizer_of_another_model_is_refused(model: Path) -> None:
    def add_tokens(data: dict[str, Any]) -> None:
        last = data["added_tokens"][-1]
        data["added_tokens"] += [{**last, "id": 755 + number, "content": f"<new{number}>"} for number in range(14)]

    edit_json(model / "text_encoder" / "tokenizer.json", add_tokens)
    with pytest.raises(CheckpointError, match="ids go to 768, the model embeds 768"):
        load(model)


def test_a_clip_config_with_another_end_id_is_refused(model: Path) -> None:
    edit_json(model / "text_encoder_2" / "config.json", lambda config: config["text_config"].update(eos_token_id=7))
    with pytest.raises(CheckpointError, match="pools at id 7"):
        load(model)


def test_tokenizers_load_without_torch_and_transformers(golden: Path) -> None:
    """The command line warns of a cut prompt before it imports what takes seconds."""
    script = (
        "import sys; from pathlib import Path; from hvlite.quantize.readers.locate import locate;"
        "from hvlite.lite.encoders.tokenizer_files import load_tokenizers; from hvlite.lite.card import OFFICIAL_CARD;"
        "print(load_tokenizers(locate(Path(sys.argv[1])), OFFICIAL_CARD).truncations('word ' * 400)[0].read_tokens,"
        "sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    run = [sys.executable, "-c", script, str(golden / "ckpts_official")]
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split(maxsplit=1) == ["256", "[]\n"]
