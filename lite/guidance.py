"""The prediction of a step for one prompt and, with classifier-free guidance, against a second one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .attention import EXACT, Attention
from .config import GenerateConfig
from .sampling import Schedule, flow_schedule, guidance_input
from .streaming.transformer_blocks import LoadedTransformer
from .text import PromptEmbeds
from .velocity import Velocity


@dataclass(frozen=True)
class Conditioning:
    """What the prompt says to the transformer. `negative` is None where classifier-free guidance is off."""

    positive: PromptEmbeds
    negative: PromptEmbeds | None = None


class Guided:
    """Call it with the latents and the index of a step: the velocity, with classifier-free guidance where it is on."""

    def __init__(
        self,
        transformer: LoadedTransformer,
        conditioning: Conditioning,
        config: GenerateConfig,
        *,
        token_chunk: int,
        attention: Attention = EXACT,
    ) -> None:
        timesteps = schedule_of(config).timesteps
        embedded = transformer.config.guidance_embed
        guidance = guidance_input(config.guidance_scale, transformer.dtype) if embedded else None

        def velocity(embeds: PromptEmbeds) -> Velocity:
            return Velocity(transformer, embeds, timesteps, guidance, token_chunk=token_chunk, attention=attention)

        self.cfg_scale = config.cfg_scale
        self.positive = velocity(conditioning.positive)
        self.negative = None if conditioning.negative is None else velocity(conditioning.negative)

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        if self.negative is None:
            return self.positive(latents, step)
        away = self.negative(latents, step)
        return away + self.cfg_scale * (self.positive(latents, step) - away)

    def locate_fault(self, latents: Tensor, step: int) -> str | None:
        """The first part of the transformer whose output in this step has a fault, with the prompt where it matters."""
        found = self.positive.locate_fault(latents, step)
        if found is None and self.negative is not None:
            found = self.negative.locate_fault(latents, step)
            return found and f"{found} (negative prompt)"
        return found


def schedule_of(config: GenerateConfig) -> Schedule:
    """The sigmas and timesteps of a config."""
    return flow_schedule(config.steps, config.flow_shift, reverse=config.flow_reverse)
