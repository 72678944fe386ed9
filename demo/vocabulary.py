"""The demo model's tokenizers, one byte-level BPE in two dresses: `python -m hvlite.demo.vocabulary --out FOLDER`.

The language model's has the template's special tokens, CLIP's its start and end. Both lower the case first. Nothing is
unknown to them: a word outside the vocabulary falls apart into smaller pieces.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from ..lite.card import PromptTemplate
from ..lite.encoders.tokens import PromptTokenizer
from . import captions, data

BEGIN, TEXT, END, PAD = "<|begin|>", "<|text|>", "<|end|>", "<|pad|>"
CLIP_BEGIN, CLIP_END = "<|startoftext|>", "<|endoftext|>"
MERGED_TOKENS = 700
# begin, "a", "video", "of", text: the prompt starts behind these five tokens, whatever it is
TEMPLATE = PromptTemplate(f"{BEGIN}a video of{TEXT}{{}}{END}", crop_start=5, max_length=64)
CLIP_TEMPLATE = PromptTemplate("{}", crop_start=1, max_length=76)
COMMON_WORDS = """the of and to in is it you that he was for on are with as his they be at one have this from or had by
not but what some we can out other were all there when up use your how said each she which do their time if will way
about many then them write would like so these her long make thing see him two has look more day could go come did
number sound no most people my over know water than call first who may down side been now find any new work part take
get place made live where after back little only round man year came show every good me give our under name very
through just form sentence great think say help low line differ turn cause much mean before move right boy old too
same tell does set three want air well also play small end put home read hand large add even land here must big high
such follow act why ask men change went light kind off need house picture try us again animal point near world self
earth head above left below across around inside outside person cat dog car tree sun moon sky night city sea fire"""


def learn(samples: int = 20000, seed: int = 1) -> Tokenizer:
    """Learn the sub-words from captions of training scenes and a list of common English words."""
    rng = random.Random(seed)
    texts = [captions.caption(data.sample_scene(rng), rng) for _ in range(samples)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=MERGED_TOKENS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*texts, *[COMMON_WORDS] * 40], trainer)
    return tokenizer


def save(folder: Path) -> None:
    """Write `text_encoder/tokenizer.json` and `text_encoder_2/tokenizer.json` under `folder`."""
    plain = learn().to_str()
    llm = Tokenizer.from_str(plain)
    llm.add_special_tokens([BEGIN, TEXT, END, PAD])
    clip = Tokenizer.from_str(plain)
    clip.add_special_tokens([CLIP_BEGIN, CLIP_END])
    ids = [(token, clip.token_to_id(token)) for token in (CLIP_BEGIN, CLIP_END)]
    clip.post_processor = processors.TemplateProcessing(single=f"{CLIP_BEGIN} $A {CLIP_END}", special_tokens=ids)
    for name, tokenizer in (("text_encoder", llm), ("text_encoder_2", clip)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(folder / name / "tokenizer.json"))


def load(folder: Path) -> tuple[PromptTokenizer, PromptTokenizer]:
    """The language model's and CLIP's tokenizer, as the runtime uses them."""
    paths = [folder / name / "tokenizer.json" for name in ("text_encoder", "text_encoder_2")]
    llm, clip = (Tokenizer.from_file(str(path)) for path in paths)
    return (
        PromptTokenizer(llm, TEMPLATE, encoder="text_encoder", path=paths[0], bos=None),
        PromptTokenizer(clip, CLIP_TEMPLATE, encoder="text_encoder_2", path=paths[1], bos=None),
    )


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    save(parser.parse_args().out)


if __name__ == "__main__":
    main()
