"""hvlite: HunyuanVideo on the graphics card you own.

    import hvlite
    video = hvlite.load().generate("a red circle moves to the right")
    video.save("circle.mp4")

The names below load lazily: importing hvlite imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .lite.checkpoint import load_text_encoders, load_transformer, load_vae
    from .lite.config import GenerateConfig
    from .lite.pipeline import Pipeline, Video, load
    from .lite.tiling import TileSpec

_HOMES = {
    "load": "lite.pipeline",
    "plan": "lite.planning.request",
    "Pipeline": "lite.pipeline",
    "Video": "lite.pipeline",
    "GenerateConfig": "lite.config",
    "TileSpec": "lite.tiling",
    "load_transformer": "lite.checkpoint",
    "load_vae": "lite.checkpoint",
    "load_text_encoders": "lite.checkpoint",
}

__all__ = [
    "GenerateConfig",
    "Pipeline",
    "TileSpec",
    "Video",
    "__version__",
    "load",
    "load_text_encoders",
    "load_transformer",
    "load_vae",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hvlite' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
