"""The prompts of a batch as embeddings: the text encoders are loaded once, used for all, and let go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...errors import HvliteError, InterruptedRunError, MemoryLimitError
from ..config import GenerateConfig
from ..device import memory_errors
from ..durations import counted
from ..events import Listener, stage
from ..guidance import Conditioning
from ..interrupt import StopFlag
from ..pipeline import Pipeline
from ..recovery.encoder import MORE_FOR_TEXT, RecoveringEncoder
from ..request.damage import point_to_verify
from ..text import PromptEmbeds


def embed_prompts(
    pipeline: Pipeline, configs: Mapping[int, GenerateConfig], on_event: Listener, stop: StopFlag
) -> tuple[dict[int, Conditioning], dict[int, str]]:
    """All prompts through the text encoders, by the keys of their configs; and what was wrong with some of them.

    They wait in host memory without their padding: half a megabyte a prompt with the 13B model's language model.
    """
    found: dict[int, Conditioning] = {}
    problems: dict[int, str] = {}
    with (
        stage("embed", len(configs), on_event) as report,
        memory_errors("encoding the prompts", hint=MORE_FOR_TEXT),
        RecoveringEncoder(pipeline.parts, by_layer=_by_layer(pipeline, configs), on_loaded=report.prepared) as encoder,
    ):
        encode = _Encoder(pipeline, encoder)
        for done, (index, config) in enumerate(configs.items(), 1):
            if stop.requested:
                raise InterruptedRunError("stopped before the first video", hint="the same command starts again")
            try:
                with point_to_verify(pipeline.parts.files.root):
                    found[index] = _embedded(encode, config)
            except MemoryLimitError:
                raise  # another prompt takes as much
            except HvliteError as error:
                problems[index] = str(error)
            report.step(done)
        report.detail = counted(len(found), "prompt")
    return found, problems


def _by_layer(pipeline: Pipeline, configs: Mapping[int, GenerateConfig]) -> bool:
    """Whether the language model must go through the device layer by layer: the same for every size of video."""
    return pipeline.plan(next(iter(configs.values()))).text_by_layer


class _Encoder:
    """Embeddings from the cache, else through the text encoders, which are loaded for the first that is not there."""

    def __init__(self, pipeline: Pipeline, encoder: RecoveringEncoder) -> None:
        self._cache, self._encoder = pipeline.prompt_cache, encoder

    def __call__(self, prompt: str, *, image: bool) -> PromptEmbeds:
        kept = self._cache.get(prompt, image=image) if self._cache else None
        if kept is not None:
            return kept
        made = self._encoder(prompt, image=image)
        if self._cache:
            self._cache.put(prompt, made, image=image)
        return made


def _embedded(encode: _Encoder, config: GenerateConfig) -> Conditioning:
    image, negative = config.frames == 1, config.effective_negative_prompt
    return Conditioning(
        positive=_trimmed(encode(config.prompt, image=image)),
        negative=None if negative is None else _trimmed(encode(negative, image=image)),
    )


def _trimmed(embeds: PromptEmbeds) -> PromptEmbeds:
    """The valid tokens alone, on the host: what the transformer reads of them."""
    length = int(embeds.prompt_mask.sum())
    return replace(
        embeds,
        prompt_embeds=embeds.prompt_embeds[:, :length].cpu().clone(),
        prompt_mask=embeds.prompt_mask[:, :length].cpu().clone(),
        pooled_prompt_embeds=embeds.pooled_prompt_embeds.cpu(),
    )
