"""Prompt -> token ids through one tokenizer and one template, and where a prompt too long for them is cut.

No torch and no transformers here: the command line says where a prompt is cut before anything heavy is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from ...errors import CheckpointError, ConfigError
from ..card import PromptTemplate

SHOWN_CHARACTERS = 40
READERS = {"text_encoder": "the language model", "text_encoder_2": "CLIP"}


@dataclass(frozen=True)
class Truncation:
    """A prompt longer than `encoder` (text_encoder or text_encoder_2) reads: `kept` + `cut` is the stripped prompt."""

    encoder: str
    prompt_tokens: int
    read_tokens: int
    kept: str
    cut: str

    def __str__(self) -> str:
        kept, cut = self.kept.rstrip(), self.cut.lstrip()
        before = kept if len(kept) <= SHOWN_CHARACTERS else "…" + kept[-SHOWN_CHARACTERS:]
        after = cut if len(cut) <= SHOWN_CHARACTERS else cut[:SHOWN_CHARACTERS] + "…"
        return (
            f"{READERS[self.encoder]} reads only {self.read_tokens} of the prompt's {self.prompt_tokens} tokens, "
            f'up to "{before}"; it does not see "{after}"'
        )


@dataclass(frozen=True)
class PromptTokens:
    """A prompt's ids, unpadded, and where it was cut to fit (None: it was not)."""

    ids: tuple[int, ...]
    truncation: Truncation | None


class PromptTokenizer:
    """The official ids of a prompt in its template, except that a prompt is only ever text.

    The template's special tokens are looked up once; prompts are split with special tokens switched off, so that an
    "<|eot_id|>" somebody writes is a few harmless characters. `bos` is the start token the tokenizer's files declare.
    Raises CheckpointError when the tokens before the prompt are not `crop_start`: the states kept after the crop would
    belong to other words.
    """

    def __init__(self, tokenizer: Tokenizer, template: PromptTemplate, *, encoder: str, path: Path, bos: int | None):
        self._tokenizer, self.template, self._encoder, self._path = tokenizer, template, encoder, path
        before, after = template.template.split("{}")
        special = _special_token_pattern(tokenizer)
        head, self._lead = _split_after_last(special, before)
        self._trail, tail = _split_before_first(special, after)
        with naming_file(path):
            tokenizer.encode_special_tokens = False
            self._head = tokenizer.encode(head, add_special_tokens=False).ids
            self._tail = tokenizer.encode(tail, add_special_tokens=False).ids
            self._start, self._end = post_processor_ids(tokenizer)
            tokenizer.encode_special_tokens = True
        # Some tokenizer.json leave the start token to the Llama tokenizer class, which always puts it.
        if bos is not None and not self._start and self._prefix_tokens() + 1 == template.crop_start:
            self._start = [bos]
        self._check()

    @property
    def id_count(self) -> int:
        """One more than the highest id the tokenizer knows."""
        return 1 + max(self._tokenizer.get_vocab().values())

    def encode(self, prompt: str) -> PromptTokens:
        """Ids of the stripped prompt, at most crop_start + max_length; ConfigError for what is not Unicode text."""
        text = _clean(prompt)
        encoding = self._encode_in_turn(text)
        room = self.template.crop_start + self.template.max_length - len(self._start) - len(self._end)
        body = [*self._head, *encoding.ids, *self._tail][: max(0, room)]
        begin = len(self._lead)
        spans = [(start - begin, end - begin) for start, end in encoding.offsets]
        truncation = self._truncation(text, spans, max(0, room - len(self._head)))
        return PromptTokens((*self._start, *body, *self._end), truncation)

    def _encode_in_turn(self, text: str) -> Encoding:
        """The text with what the template puts around it, as far as the next special tokens."""
        with naming_file(self._path):
            return self._tokenizer.encode(self._lead + text + self._trail, add_special_tokens=False)

    def _truncation(self, text: str, spans: list[tuple[int, int]], read: int) -> Truncation | None:
        if read >= len(spans) or spans[read][0] >= len(text):
            return None
        of_prompt = [end > 0 and start < len(text) for start, end in spans]
        place = max(0, spans[read][0])
        return Truncation(self._encoder, sum(of_prompt), sum(of_prompt[:read]), text[:place], text[place:])

    def _prefix_tokens(self) -> int:
        before_prompt = sum(end <= len(self._lead) for _, end in self._encode_in_turn("a").offsets)
        return len(self._start) + len(self._head) + before_prompt

    def _check(self) -> None:
        found, expected = self._prefix_tokens(), self.template.crop_start
        if found != expected:
            raise CheckpointError(
                f"{self._path}: the prompt template begins with {found} tokens, crop_start is {expected}",
                hint="take the tokenizer this model was made with, or correct the template in its hvlite_card.json",
            )
        if len(self.encode("").ids) <= expected:
            raise CheckpointError(
                f"{self._path}: an empty prompt leaves no token behind the first {expected} of the template",
                hint="the template or the tokenizer must end a prompt with a token of its own",
            )


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """CheckpointError naming `path` for what the tokenizers library finds wrong with it.

    The library raises bare Exceptions, and its panics are BaseExceptions; both come from the file, not from us.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - see above
        raise CheckpointError(
            f"{path}: not a usable tokenizer ({error})", hint="restore the file that came with the model"
        ) from None


def _clean(prompt: str) -> str:
    text = prompt.strip()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"the prompt is not valid Unicode text (character {error.start + 1} is half of a surrogate pair)",
            hint="retype the prompt, or save the prompt file as UTF-8",
        ) from None
    return text


def _special_token_pattern(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    words = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if words else None


def _split_after_last(pattern: re.Pattern[str] | None, text: str) -> tuple[str, str]:
    ends = [match.end() for match in pattern.finditer(text)] if pattern else []
    place = ends[-1] if ends else 0
    return text[:place], text[place:]


def _split_before_first(pattern: re.Pattern[str] | None, text: str) -> tuple[str, str]:
    match = pattern.search(text) if pattern else None
    place = match.start() if match else len(text)
    return text[:place], text[place:]


def post_processor_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids the tokenizer itself puts before and behind every text (start token, CLIP's end token)."""
    encoding = tokenizer.encode("a")
    text_places = [place for place, added in enumerate(encoding.special_tokens_mask) if not added]
    if not text_places:
        return list(encoding.ids), []
    return encoding.ids[: text_places[0]], encoding.ids[text_places[-1] + 1 :]
