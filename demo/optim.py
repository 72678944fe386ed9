"""Muon for matrices and convolution kernels, Adam for the rest.

Muon: K. Jordan et al., "Muon: an optimizer for hidden layers" (2024); the update's RMS is matched to Adam's as in
"Muon is scalable for LLM training" (arXiv 2502.16982).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrix, roughly: singular values end between about 0.7 and 1.2."""
    a, b, c = NEWTON_SCHULZ
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised. Parameters of three and more dimensions count as [out, everything else]."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, group)

    def _update(self, param: Tensor, group: dict[str, float]) -> None:
        assert param.grad is not None
        state = self.state[param]
        buffer = state.setdefault("momentum", torch.zeros_like(param))
        buffer.lerp_(param.grad, 1 - group["momentum"])
        direction = param.grad.lerp(buffer, group["momentum"]).reshape(param.shape[0], -1)
        update = orthogonalise(direction) * 0.2 * max(direction.shape) ** 0.5
        param.mul_(1 - group["lr"] * group["decay"])
        param.add_(update.view_as(param), alpha=-group["lr"])


class Optimiser:
    """Muon over `matrices` and AdamW over `others`, driven as one. Learning rates are peaks, scaled at each step."""

    def __init__(
        self, matrices: list[nn.Parameter], others: list[nn.Parameter], lr: float, adam_lr: float, decay: float = 0.0
    ) -> None:
        self.parts: list[torch.optim.Optimizer] = [
            Muon(matrices, lr, decay=decay),
            torch.optim.AdamW(others, adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.peaks = [lr, adam_lr]
        self.params = [*matrices, *others]

    def step(self, scale: float, clip: float = 1.0) -> float:
        """One update with all learning rates multiplied by `scale`. Returns the gradient's norm before clipping."""
        norm = float(nn.utils.clip_grad_norm_(self.params, clip))
        for part, peak in zip(self.parts, self.peaks, strict=True):
            part.param_groups[0]["lr"] = peak * scale
            part.step()
            part.zero_grad(set_to_none=True)
        return norm
