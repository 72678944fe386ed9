"""The stages of a run, each with its peaks: the weights of one are gone before the next one's come (arithmetic)."""

from __future__ import annotations

from collections.abc import Iterator

from ..tiling import TileSpec
from .blocks import Arrangement
from .decode import Decode, StoredVae, cpu_bytes, decode_moment, host_moment, official_tile, whole_tile
from .model import ModelSizes
from .text import text_moments
from .time import copy_seconds, decode_seconds, read_seconds, step_seconds
from .types import Machine, Moment, Stage, Work, fits_device

ENCODER_FRAMES = 200  # of yuv420, in x264's lookahead and references
LOADING_COPIES = 2.5  # of the largest tensor: as read, as checked for non-finite values, in its new type

# After the official geometry: smaller tiles blend elsewhere, so their pixels differ slightly.
SMALL_TILES = (
    TileSpec(frames=8),
    TileSpec(height=24, width=24, frames=8),
    TileSpec(height=16, width=16, frames=8),
    TileSpec(height=16, width=16, frames=4),
)


def plan_stages(
    model: ModelSizes, work: Work, machine: Machine, chosen: Arrangement, decode: Decode
) -> tuple[Stage, ...]:
    """Text, modulation, denoise, decode, write."""
    return (
        _text(model, machine),
        _modulation(model, machine, chosen),
        _denoise(model, work, machine, chosen),
        decode_stage(model, machine, decode),
        _write(work, machine),
    )


def choose_decode(model: StoredVae, work: Work, machine: Machine) -> Decode:
    """The first tile of the list that fits; the last one where none does."""
    for decode in _decodes(model, work, machine):
        if not (machine.on_cpu or decode.is_countable):
            continue
        stage = decode_stage(model, machine, decode)
        if fits_device(stage.vram_bytes, machine) and stage.ram_bytes <= machine.ram_bytes:
            break
    return decode


def _decodes(model: StoredVae, work: Work, machine: Machine) -> Iterator[Decode]:
    for tile, lean in _tiles(model, work):
        yield Decode(
            config=model.vae_config,
            height=work.height,
            width=work.width,
            frames=work.frames,
            tile=tile,
            w=machine.w,
            lean=lean,
        )


def _tiles(model: StoredVae, work: Work) -> Iterator[tuple[TileSpec, bool]]:
    """Tiles in order of preference, each with whether it is decoded in chunks of time."""
    first = official_tile(model.vae_config) if work.tiled else whole_tile(work.height, work.width, work.frames)
    yield first, False
    yield first, True
    if work.tiled:
        yield from ((tile, True) for tile in SMALL_TILES)


def _stage(
    name: str, machine: Machine, device: Moment, weights: int, host: int, streamed: int, seconds: float | None
) -> Stage:
    """On a CPU what would be on the device is in host memory."""
    on_device = weights + device.nbytes
    ram = machine.host_base_bytes + host + on_device * machine.on_cpu
    return Stage(name, 0 if machine.on_cpu else on_device, ram, streamed, seconds, device.name)


def text_by_layer(model: ModelSizes, machine: Machine) -> bool:
    """Whether the language model must go through the device layer by layer; on a CPU, where the RAM limit says so."""
    whole, _ = text_moments(model, machine.w)
    if machine.on_cpu:
        return machine.host_base_bytes + _embedding_bytes(model, machine) + whole.nbytes > machine.ram_bytes
    return not fits_device(whole.nbytes, machine)


def _embedding_bytes(model: ModelSizes, machine: Machine) -> int:
    """Host memory of the language model's table of embeddings while it is loaded."""
    return int(LOADING_COPIES * model.embedding_elements * machine.w)


def _text(model: ModelSizes, machine: Machine) -> Stage:
    whole, by_layer = text_moments(model, machine.w)
    moment = by_layer if text_by_layer(model, machine) else whole
    loading = _embedding_bytes(model, machine)
    return _stage("text", machine, moment, 0, loading, model.text_bytes, read_seconds(model.text_bytes))


def _modulation(model: ModelSizes, machine: Machine, chosen: Arrangement) -> Stage:
    moment = Moment("largest modulation layer", chosen.modulation_bytes - chosen.device_bytes)
    read = model.modulation_bytes if model.streamable else 0
    host = chosen.host.peak_bytes + int(LOADING_COPIES * model.largest_elements * machine.w)
    return _stage("modulation", machine, moment, chosen.device_bytes, host, read, read_seconds(read))


def _denoise(model: ModelSizes, work: Work, machine: Machine, chosen: Arrangement) -> Stage:
    each = step_seconds(model, chosen.step, chosen.streaming, machine.gpu)
    seconds = None if each is None else work.steps * each + (copy_seconds(chosen.streaming, machine.gpu) or 0.0)
    streamed = work.steps * chosen.streaming.copied_bytes
    host = chosen.host.peak_bytes
    return _stage("denoise", machine, chosen.peak, chosen.device_bytes, host, streamed, seconds)


def decode_stage(model: StoredVae, machine: Machine, decode: Decode) -> Stage:
    """The VAE, tile by tile, and what of the frames is in host memory."""
    weights = model.vae_elements * machine.w
    host = host_moment(decode).nbytes + _encoder_bytes(decode.height, decode.width)
    host += cpu_bytes(decode) * machine.on_cpu
    return _stage("decode", machine, decode_moment(decode), weights, host, 0, decode_seconds(decode, machine.gpu))


def _write(work: Work, machine: Machine) -> Stage:
    """Frames go to the encoder while the decode runs; what is left at the end is its delay."""
    return _stage("write", machine, Moment("encoder", 0), 0, _encoder_bytes(work.height, work.width), 0, None)


def _encoder_bytes(height: int, width: int) -> int:
    return ENCODER_FRAMES * height * width * 3 // 2
