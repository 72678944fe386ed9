"""The prompts of a video out of the cache, or through the text encoders, which load only for what is not there."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import torch

from .. import __version__
from .encoders.prompt_cache import PromptCache, cache_folder
from .fingerprint import encoders_fingerprint
from .parts import ModelParts
from .recovery.encoder import RecoveringEncoder
from .text import PromptEmbeds


def open_prompt_cache(parts: ModelParts) -> PromptCache:
    """The cache for a model's encoders as they compute here. Another library, dtype or device rounds otherwise."""
    how = {
        "hvlite": __version__,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "dtype": str(parts.dtypes.text),
        "device": parts.device.name,
    }
    return PromptCache(cache_folder(), parts.card, encoders_fingerprint(parts.files, how), parts.on_event)


def embed_prompts(
    encode: RecoveringEncoder, cache: PromptCache | None, prompts: Sequence[str], *, image: bool
) -> list[PromptEmbeds]:
    """Embeddings of each prompt, a batch of one each; `cache` None: nothing is looked up and nothing kept."""
    looked_up = {prompt: cache.get(prompt, image=image) for prompt in prompts} if cache else {}
    known = {prompt: embeds for prompt, embeds in looked_up.items() if embeds is not None}
    missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
    known |= {prompt: encode(prompt, image=image) for prompt in missing}
    if cache:
        for prompt in missing:
            cache.put(prompt, known[prompt], image=image)
    return [known[prompt] for prompt in prompts]
