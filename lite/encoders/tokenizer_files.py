"""A model folder's tokenizer files -> the tokenizers of its two text encoders.

tokenizer.json is read by the `tokenizers` library itself: transformers 5 rebuilds what it takes for a Llama tokenizer
on a SentencePiece pipeline, which splits Llama-3 text wrongly. CLIP's older vocab.json + merges.txt is assembled here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from ...errors import CheckpointError
from ...files import read_json, read_limited
from ..card import ModelCard, PromptTemplate
from .tokens import PromptTokenizer, Truncation, naming_file, post_processor_ids

if TYPE_CHECKING:
    from ...quantize.readers.locate import ModelFiles

LIMIT_BYTES = 64 << 20
CLIP_POSITIONS = 77
RESTORE = "restore the file that came with the model"
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
# Apostrophe endings, runs of letters, single digits, runs of whatever else is not space (CLIP, Radford et al. 2021).
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True)
class PromptTokenizers:
    """What both encoders read of a prompt: the language model in its video or image template, CLIP the bare prompt."""

    video: PromptTokenizer
    image: PromptTokenizer
    clip: PromptTokenizer

    def truncations(self, prompt: str, image: bool = False) -> tuple[Truncation, ...]:
        """Where each encoder cuts the prompt; empty when both read all of it. The language model's comes first."""
        llm = self.image if image else self.video
        found = (llm.encode(prompt).truncation, self.clip.encode(prompt).truncation)
        return tuple(truncation for truncation in found if truncation is not None)


def load_tokenizers(files: ModelFiles, card: ModelCard) -> PromptTokenizers:
    """The tokenizers of a located model with the templates of `card`. Needs no torch.

    CheckpointError for missing, malformed or mismatched files.
    """
    folder = _folder(files.tokenizer, files.root, "tokenizer")
    tokenizer = _read_tokenizer_json(folder / "tokenizer.json")
    bos = _declared_bos(tokenizer, folder)

    def llm(template: PromptTemplate) -> PromptTokenizer:
        return PromptTokenizer(tokenizer, template, encoder="text_encoder", path=folder / "tokenizer.json", bos=bos)

    return PromptTokenizers(
        video=llm(card.prompt_template),
        image=llm(card.image_template),
        clip=_clip_tokenizer(_folder(files.tokenizer_2, files.root, "tokenizer_2"), _clip_positions(files)),
    )


def _clip_tokenizer(folder: Path, positions: int) -> PromptTokenizer:
    path = folder / "tokenizer.json"
    if path.is_file():
        tokenizer = _read_tokenizer_json(path)
    else:
        path = folder / "vocab.json"
        tokenizer = _clip_from_merges(path, folder / "merges.txt")
    with naming_file(path):
        start, _ = post_processor_ids(tokenizer)
    bare = PromptTemplate("{}", crop_start=len(start), max_length=positions - len(start))
    return PromptTokenizer(tokenizer, bare, encoder="text_encoder_2", path=path, bos=None)


def _clip_from_merges(vocab_path: Path, merges_path: Path) -> Tokenizer:
    vocab = read_json(vocab_path, limit_bytes=LIMIT_BYTES)
    if not isinstance(vocab, dict) or not {CLIP_START, CLIP_END} <= vocab.keys():
        raise CheckpointError(f"{vocab_path}: not CLIP's vocabulary (no {CLIP_START} or {CLIP_END})", hint=RESTORE)
    merges = _merges(merges_path)
    with naming_file(merges_path):
        model = BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>", unk_token=CLIP_END)
        return _with_clip_pipeline(Tokenizer(model), vocab)


def _merges(path: Path) -> list[tuple[str, str]]:
    lines = [line.split() for line in _read_text(path).split("\n") if not line.startswith("#version")]
    pairs = [(words[0], words[1]) for words in lines if len(words) == 2]
    if len(pairs) != sum(map(bool, lines)):
        raise CheckpointError(f"{path}: a line is not two words", hint=RESTORE)
    return pairs


def _with_clip_pipeline(tokenizer: Tokenizer, vocab: dict[str, int]) -> Tokenizer:
    one_space = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), one_space, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLIP_START} $A {CLIP_END}",
        special_tokens=[(CLIP_START, vocab[CLIP_START]), (CLIP_END, vocab[CLIP_END])],
    )
    return tokenizer


def _read_tokenizer_json(path: Path) -> Tokenizer:
    text = _read_text(path)
    with naming_file(path):
        return _parsed(text)


@lru_cache(maxsize=4)
def _parsed(text: str) -> Tokenizer:
    """Kept for the process: with every new tokenizer the library (0.23) keeps about 18 KiB of its own for good."""
    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_text(path: Path) -> str:
    try:
        return read_limited(path, LIMIT_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8 text ({error})", hint=RESTORE) from None


def _declared_bos(tokenizer: Tokenizer, folder: Path) -> int | None:
    """The id of the start token that tokenizer_config.json or special_tokens_map.json names."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        declared = read_json(path, limit_bytes=LIMIT_BYTES) if path.is_file() else {}
        token = declared.get("bos_token") if isinstance(declared, dict) else None
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            found: int | None = tokenizer.token_to_id(content)
            return found
    return None


def _clip_positions(files: ModelFiles) -> int:
    path = files.text_encoder_2.config if files.text_encoder_2 else None
    config: Any = read_json(path) if path else {}
    text_config = config.get("text_config", config) if isinstance(config, dict) else {}
    positions = text_config.get("max_position_embeddings", CLIP_POSITIONS) if isinstance(text_config, dict) else 0
    if not isinstance(positions, int) or positions < 3:
        raise CheckpointError(f"{path}: max_position_embeddings is {positions!r}, expected a whole number from 3")
    return positions


def _folder(folder: Path | None, root: Path, name: str) -> Path:
    if folder is None:
        raise CheckpointError(
            f"{root}: no {name} files (tokenizer.json, or vocab.json with merges.txt for CLIP)",
            hint="copy them beside the text encoders' weights (text_encoder/, text_encoder_2/)",
        )
    return folder
