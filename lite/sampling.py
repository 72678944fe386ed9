"""From noise to latents: the flow-matching schedule and its Euler steps.

Source: the official `hyvideo/diffusion/schedulers/scheduling_flow_match_discrete.py` and `pipeline_hunyuan_video.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import NonFiniteError
from .config import GenerateConfig
from .recovery.watchdog import fault_of

TRAIN_TIMESTEPS = 1000

Predict = Callable[[Tensor, int], Tensor]
"""(latents [1, C, T, H, W] fp32, index of the step) -> the velocity, the shape of the latents."""


@dataclass(frozen=True)
class Schedule:
    """sigmas [n + 1] and timesteps [n], fp32 on the CPU. Step i goes from sigmas[i] to sigmas[i + 1]."""

    sigmas: Tensor
    timesteps: Tensor

    @property
    def steps(self) -> int:
        return len(self.timesteps)


def flow_schedule(steps: int, shift: float, *, reverse: bool = True) -> Schedule:
    """The shifted linear schedule: sigma = shift * b / (1 + (shift - 1) * b), b from 1 to 0 in `steps` steps.

    `reverse` runs from noise (sigma 1) to video (0), as the released weights need; without it sigma is mirrored.
    """
    linear = torch.linspace(1, 0, steps + 1)
    sigmas = (shift * linear) / (1 + (shift - 1) * linear)
    if not reverse:
        sigmas = 1 - sigmas
    return Schedule(sigmas=sigmas, timesteps=sigmas[:-1] * TRAIN_TIMESTEPS)


def initial_latents(config: GenerateConfig) -> Tensor:
    """Noise [1, 16, T, H/8, W/8] fp32 from a CPU generator: a seed gives the same start on every device."""
    generator = torch.Generator("cpu").manual_seed(config.seed)
    return torch.randn(config.latent_shape, generator=generator)


def guidance_input(guidance_scale: float, dtype: torch.dtype) -> Tensor:
    """The embedded guidance as the model gets it: [1], scale * 1000 in the model's dtype.

    The official code rounds so: 6.0 becomes 6016 in bf16, and the released weights were run with that.
    """
    return torch.tensor([guidance_scale], dtype=dtype) * TRAIN_TIMESTEPS


def euler_step(predict: Predict, latents: Tensor, schedule: Schedule, index: int) -> Tensor:
    """The latents after step `index` (from 0). NonFiniteError, naming the step, for a prediction that cannot be one."""
    velocity = predict(latents, index).float()
    fault = fault_of(velocity)
    if fault is not None:
        raise NonFiniteError(f"step {index + 1} of {schedule.steps}: the transformer's prediction {fault}")
    return latents + velocity * (schedule.sigmas[index + 1] - schedule.sigmas[index]).to(latents.device)


def denoise(predict: Predict, latents: Tensor, schedule: Schedule, *, start: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Euler steps from step `start`: yields (steps done, latents fp32) after every step. Raises as `euler_step`."""
    for index in range(start, schedule.steps):
        latents = euler_step(predict, latents, schedule, index)
        yield index + 1, latents
