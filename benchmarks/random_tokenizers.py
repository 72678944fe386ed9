"""Tokenizers for random text encoders: the sizes and the special tokens of the real ones, letters for a vocabulary.

The official templates split as with Llama 3: each of their words is a token, and so are the special tokens, which have
the ids that Llama 3 gives them. Any other word is split into pairs of letters. What is made of a text means nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from itertools import islice, product
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers, processors
from tokenizers.models import BPE

from ..lite.card import OFFICIAL_CARD
from ..lite.encoders.tokenizer_files import CLIP_END, CLIP_START

LLAMA_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    *(f"<|reserved_special_token_{index}|>" for index in range(4)),
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_special_token_4|>",
    "<|eot_id|>",
)
SPECIAL_ROWS = 320  # of the real table of embeddings, behind the 128000 words
# Llama 3's: endings, a word with what stands before it, up to three digits, runs of signs, line ends, spaces.
LLAMA_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def write_llama_tokenizer(folder: Path, vocab_size: int) -> None:
    """tokenizer.json for a language model of `vocab_size` rows, from 640 on."""
    split = pre_tokenizers.Split(Regex(LLAMA_WORDS), behavior="isolated")
    pieces = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    words = {word for text in _template_texts() for word, _ in pieces.pre_tokenize_str(text)}
    vocabulary = [*_letters(), *sorted(words - {*_letters()})]
    merges = [*_pairs(_letters(), vocab_size - SPECIAL_ROWS - len(vocabulary), without=words)]
    vocabulary += map("".join, merges)
    vocabulary += _triples(vocab_size - SPECIAL_ROWS - len(vocabulary), without=words)
    model = BPE(vocab={word: index for index, word in enumerate(vocabulary)}, merges=merges, ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in LLAMA_SPECIAL])
    tokenizer.pre_tokenizer = pieces
    start = LLAMA_SPECIAL[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, len(vocabulary))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def write_clip_tokenizer(folder: Path, vocab_size: int) -> None:
    """vocab.json and merges.txt for a CLIP of `vocab_size` rows, from 514 on; the last two begin and end a prompt."""
    letters = _letters()
    merges = [*_pairs(letters, vocab_size - 2 * len(letters) - 2)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), CLIP_START, CLIP_END]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")


def _letters() -> list[str]:
    """What stands for each of the 256 bytes."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _pairs(letters: list[str], count: int, without: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Two letters that are merged into a word."""
    found = (pair for pair in product(letters, letters) if "".join(pair) not in without)
    return islice(found, max(0, count))


def _triples(count: int, without: Collection[str]) -> Iterator[str]:
    """Words of three letters, which no merge makes: they are there for the size of the table."""
    found = (word for word in map("".join, product(_letters(), repeat=3)) if word not in without)
    return islice(found, max(0, count))


def _template_texts() -> Iterator[str]:
    """The official templates' texts between their special tokens."""
    for template in (OFFICIAL_CARD.prompt_template, OFFICIAL_CARD.image_template):
        for text in template.template.replace("{}", "").split("<|"):
            yield text.rpartition("|>")[2]
