"""The prompts of a batch as embeddings: the text encoders are loaded once, used for all, and let go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...errors import HvliteError, InterruptedRunError
from ..config import GenerateConfig
from ..device import memory_errors
from ..events import Listener, stage
from ..interrupt import StopFlag
from ..pipeline import Conditioning, Pipeline, condition
from ..text import PromptEmbeds


class EmbeddedPipeline(Pipeline):
    """A pipeline for configs whose prompts are embedded already."""

    def __init__(self, pipeline: Pipeline, conditioning: Mapping[GenerateConfig, Conditioning]) -> None:
        super().__init__(pipeline.parts)
        self._conditioning = conditioning

    def embed(self, config: GenerateConfig) -> Conditioning:
        """What was embedded before."""
        return self._conditioning[config]


def embed_prompts(
    pipeline: Pipeline, configs: Mapping[int, GenerateConfig], on_event: Listener, stop: StopFlag
) -> tuple[EmbeddedPipeline, dict[int, str]]:
    """All prompts through the text encoders; and by the key of their config what was wrong with some of them.

    They wait in host memory without their padding: half a megabyte a prompt with the 13B model's language model.
    """
    found: dict[GenerateConfig, Conditioning] = {}
    problems: dict[int, str] = {}
    with (
        stage("embed", len(configs), on_event) as report,
        memory_errors("encoding the prompts"),
        pipeline.parts.text() as text,
    ):
        for done, (index, config) in enumerate(configs.items(), 1):
            if stop.requested:
                raise InterruptedRunError("stopped before the first video", hint="the same command starts again")
            try:
                found[config] = _on_host(condition(text, config))
            except HvliteError as error:
                problems[index] = str(error)
            report.step(done)
        report.detail = f"{len(found)} prompts"
    return EmbeddedPipeline(pipeline, found), problems


def _on_host(conditioning: Conditioning) -> Conditioning:
    negative = conditioning.negative
    return Conditioning(_trimmed(conditioning.positive), None if negative is None else _trimmed(negative))


def _trimmed(embeds: PromptEmbeds) -> PromptEmbeds:
    """The valid tokens alone, on the host: what the transformer reads of them."""
    length = int(embeds.prompt_mask.sum())
    return replace(
        embeds,
        prompt_embeds=embeds.prompt_embeds[:, :length].cpu().clone(),
        prompt_mask=embeds.prompt_mask[:, :length].cpu().clone(),
        pooled_prompt_embeds=embeds.pooled_prompt_embeds.cpu(),
    )
