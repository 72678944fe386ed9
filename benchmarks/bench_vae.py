"""One tile of the decode, whole and in chunks of time: time, peak memory against the plan's, and the two compared.

Random weights of the official shapes. On a CPU tiles are small; the plan's arithmetic is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ..errors import MemoryLimitError
from ..lite.device import memory_errors
from ..lite.models.vae import AutoencoderKLCausal3D
from ..lite.models.vae_lean import decode_lean
from ..lite.planning.decode import tile_moment
from ..quantize.architecture import VaeConfig
from .make_full_size import RandomWeights
from .measure import AllocationTracker
from .results import Plain, Result, check_gate
from .suite import BenchOptions
from .timing import time_work
from .watch import Watch

PART = "vae"
REPEATS = 3
Tile = tuple[int, int, int]
CUDA_TILES: tuple[Tile, ...] = ((9, 16, 16), (9, 32, 32), (17, 32, 32))
CPU_TILES: tuple[Tile, ...] = ((2, 8, 8),)
TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2}


def run(options: BenchOptions) -> Iterator[Result]:
    """Every tile, whole and lean, as far as time and memory go."""
    cuda = options.device.type == "cuda"
    vae = random_vae(VaeConfig(), options.device, torch.float16 if cuda else torch.float32)
    yield from run_tiles(options, vae, CUDA_TILES if cuda else CPU_TILES)


def run_tiles(options: BenchOptions, vae: AutoencoderKLCausal3D, tiles: tuple[Tile, ...]) -> Iterator[Result]:
    """The same with a VAE and tiles given (frames, rows, columns of latents)."""
    for tile in tiles:
        latents = _latents(vae, tile)
        reference: Tensor | None = None
        for lean in (True, False):  # the lean one first: it fits where the other may not
            name = _name(tile, lean=lean)
            if options.seconds_left <= 0:
                options.skip(PART, f"{name}: no time was left")
                continue
            try:
                with memory_errors(name):
                    result, reference = _measure(options, vae, latents, reference, lean=lean)
                    yield result
            except MemoryLimitError as error:
                options.skip(PART, error.message)


def _measure(
    options: BenchOptions, vae: AutoencoderKLCausal3D, latents: Tensor, reference: Tensor | None, *, lean: bool
) -> tuple[Result, Tensor]:
    decode = partial(decode_lean, vae, latents) if lean else partial(torch.no_grad()(vae.decode_tile), latents)
    with Watch(options.device) as watch:
        frames = decode()
    gate = _gate(frames.cpu(), reference, vae.dtype)
    counted = _counted_bytes(decode, vae)
    seconds = time_work(decode, options.device, repeats=REPEATS, warm_up=0, until=options.until)
    tile: Tile = (latents.shape[2], latents.shape[3], latents.shape[4])
    planned = tile_moment(vae.config, tile, vae.dtype.itemsize, lean=lean).nbytes
    values: dict[str, Plain] = {
        "planned_bytes": planned,
        "counted_bytes": counted,
        "planned_to_counted_ratio": planned / counted,
    }
    settings: dict[str, Plain] = {"dtype": str(vae.dtype).removeprefix("torch."), "lean": lean}
    result = Result(
        part=PART,
        case=_name(tile, lean=lean),
        gate=gate,
        seconds=seconds,
        peaks=watch.peaks(),
        values=values,
        settings=settings,
    )
    return result, frames.cpu()


def _gate(frames: Tensor, reference: Tensor | None, dtype: torch.dtype) -> str:
    if reference is None:
        return check_gate(bool(torch.isfinite(frames).all()), "finite")
    error = float((frames.float() - reference.float()).abs().max() / reference.float().abs().max())
    limit = TOLERANCE[dtype]
    return check_gate(error <= limit, f"whole and in chunks of time equal within {limit:g} of the largest value")


def _counted_bytes(decode: partial[Tensor], vae: AutoencoderKLCausal3D) -> int:
    """Peak of the live tensors, weights apart: what the plan predicts."""
    with AllocationTracker() as memory:
        memory.hold(vae.parameters())  # an operator that returns a view of a weight would count it
        memory.restart()
        weights = memory.live_bytes
        frames = decode()
    del frames
    return memory.peak_bytes - weights


def random_vae(config: VaeConfig, device: torch.device, dtype: torch.dtype) -> AutoencoderKLCausal3D:
    """A VAE of random weights, made on the device one tensor at a time."""
    with torch.device("meta"):
        vae = AutoencoderKLCausal3D(config)
    weights = RandomWeights(3)
    for name, parameter in list(vae.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        shape = tuple(parameter.shape)
        value = torch.zeros(shape, dtype=dtype) if attribute == "bias" else weights.make(shape, dtype)
        setattr(vae.get_submodule(owner), attribute, torch.nn.Parameter(value.to(device), requires_grad=False))
    return vae.eval()


def _latents(vae: AutoencoderKLCausal3D, tile: Tile) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(1, vae.config.latent_channels, *tile, generator=generator).to(vae.device, vae.dtype)


def _name(tile: Tile, *, lean: bool) -> str:
    return f"tile {'x'.join(map(str, tile))} {'in chunks of time' if lean else 'whole'}"
