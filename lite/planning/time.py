"""How long a plan's stages take at a card's tabulated rates: estimates, and None where a rate is not known."""

from __future__ import annotations

from dataclasses import dataclass

from .decode import Decode
from .denoise import Step
from .gpus import GB, Gpu
from .model import ModelSizes

DISK_BYTES_PER_S = 3.5 * GB  # an NVMe drive of PCIe generation 3: assumed, the plan does not measure
HOST_COPY_BYTES_PER_S = 8 * GB  # from pageable into page-locked memory, one thread: assumed as well
ELEMENT_TRAFFIC = 250  # bytes a token channel and block moves in norms, rotations, gates and GELU, as they run today
VOXEL_FLOPS = 72.4e12 / (17 * 32 * 32)  # of the VAE's decoder for one latent position, counted at the official tile
LEAN_WORK = 4 / 3  # the lean decode computes the last upsampler three times


@dataclass(frozen=True)
class Streaming:
    """Bytes that a step copies to the device; of these, from pageable host memory and from disk."""

    copied_bytes: int
    staged_bytes: int
    disk_bytes: int


def step_seconds(model: ModelSizes, step: Step, streaming: Streaming, gpu: Gpu | None) -> float | None:
    """One denoise step: copies run beside the computation, so the longer of the two."""
    computing = compute_seconds(model, step, gpu)
    copying = copy_seconds(streaming, gpu)
    return None if computing is None or copying is None else max(computing, copying)


def compute_seconds(model: ModelSizes, step: Step, gpu: Gpu | None) -> float | None:
    """Attention, matrix products, and the memory traffic of all else."""
    if gpu is None or not gpu.attention_flops or not gpu.linear_flops or not gpu.bandwidth_bytes_per_s:
        return None
    config = step.config
    depth = config.mm_double_blocks_depth + config.mm_single_blocks_depth
    attention = 4 * step.tokens**2 * config.hidden_size * depth / gpu.attention_flops
    # A token meets half of a double block's weights, those of its stream, and all of a single block's.
    per_block = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.mlp_hidden_size
    linear = 2 * step.tokens * per_block * depth / gpu.linear_flops
    traffic = (ELEMENT_TRAFFIC * step.tokens * config.hidden_size * depth + _widening(model, step)) / (
        gpu.bandwidth_bytes_per_s
    )
    return step.prompts * (attention + linear + traffic)


def _widening(model: ModelSizes, step: Step) -> float:
    """Bytes moved to widen quantized weights, anew for every chunk. Fused layers multiply the codes as they are."""
    if step.fused or model.scheme not in ("fp8", "int8"):
        return 0.0
    chunks = -(-step.video // step.chunk)
    return chunks * model.block_elements * (1 + 3 * 4 + 2 * step.w)


def copy_seconds(streaming: Streaming, gpu: Gpu | None) -> float | None:
    """What a step's copies take over the link, or its reads where these are slower."""
    if not streaming.copied_bytes:
        return 0.0
    if gpu is None or not gpu.link_bytes_per_s:
        return None
    reading = streaming.disk_bytes / DISK_BYTES_PER_S + streaming.staged_bytes / HOST_COPY_BYTES_PER_S
    return max(streaming.copied_bytes / gpu.link_bytes_per_s, reading)


def decode_seconds(decode: Decode, gpu: Gpu | None) -> float | None:
    """All tiles, overlaps decoded twice, at half the rate of large matrix products (3D convolutions reach less)."""
    if gpu is None or not gpu.linear_flops:
        return None
    work = decode.latent_voxels * VOXEL_FLOPS * (LEAN_WORK if decode.lean else 1.0)
    return work / (0.5 * gpu.linear_flops)


def read_seconds(nbytes: int) -> float:
    """Reading from disk at the assumed rate."""
    return nbytes / DISK_BYTES_PER_S
