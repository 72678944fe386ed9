"""Graphics cards to plan for: memory, bandwidth, link, capability, arithmetic rate (a table, no device is touched).

Sources. NVIDIA's product pages and data sheets: memory, memory bandwidth, PCIe generation and lanes. CUDA's list of
compute capabilities. Tensor rate: dense fp16 or bf16 with fp32 sums, from the white papers of Turing, Ampere GA102,
Ada and Blackwell RTX, and the data sheets of the data-centre cards; None where none of these was at hand.

Some were compared with published pages: capabilities of RTX 40 and 50, L4, L40S, Hopper and B200 with
developer.nvidia.com/cuda-gpus; bandwidths of RTX 3060, 3060 Ti and 4060 Ti (and its eight lanes) with guru3d.com, of
RTX 3070, 3080 and 3090 with tomshardware.com, of RTX 3090 Ti with screenhacker.com; memory, bandwidth and tensor rate
of H100, H200, L40S and L4 with inferenceengineering.tech and llmbook.apartsin.com, memory and bandwidth of B200 with
acecloud.ai. For the RTX 3080 12GB atizone.it says 936 GB/s, from memory at 19.5 Gbps; it is kept at 912, from 19, and
not settled. The other figures were not compared. Desktop cards; a laptop card of the same name has another memory and
another clock.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from ...errors import ConfigError

GIB = 1 << 30
GB = 10**9
TURING, AMPERE, AMPERE_RTX, ADA, HOPPER = (7, 5), (8, 0), (8, 6), (8, 9), (9, 0)
BLACKWELL, BLACKWELL_RTX = (10, 0), (12, 0)

# What a copy from page-locked memory reaches of 1 GB/s a lane (generation 3), 2 (4) and 4 (5), as commonly measured.
PCIE_BYTES_PER_S_LANE = {3: 0.75 * GB, 4: 1.56 * GB, 5: 3.12 * GB}

# Share of the tensor rate that attention of torch reaches with head dimension 128 and long sequences, without a mask:
# measured medians of torch's pull request 192799 (sm_86, sm_89), FlashAttention-2 on A100, cuDNN on H100 (its paper).
ATTENTION_SHARE = {AMPERE: 0.65, AMPERE_RTX: 0.72, ADA: 0.52, HOPPER: 0.62}
LINEAR_SHARE = 0.85


@dataclass(frozen=True)
class Gpu:
    """A card as the plan sees it. Rates in bytes and operations a second; None: not known."""

    name: str
    memory_bytes: int
    capability: tuple[int, int] | None = None
    bandwidth_bytes_per_s: float | None = None
    link_bytes_per_s: float | None = None
    tensor_flops: float | None = None

    @property
    def attention_flops(self) -> float | None:
        """What attention reaches."""
        share = ATTENTION_SHARE.get(self.capability) if self.capability else None
        return None if share is None or self.tensor_flops is None else share * self.tensor_flops

    @property
    def linear_flops(self) -> float | None:
        """What large matrix products reach."""
        return None if self.tensor_flops is None else LINEAR_SHARE * self.tensor_flops


def _cards(
    capability: tuple[int, int], pcie: int, *rows: tuple[str, float, float, int, float | None]
) -> dict[str, Gpu]:
    """Rows of name, memory in GiB, bandwidth in GB/s, PCIe lanes, tensor rate in TFLOP/s."""
    return {
        name: Gpu(
            name,
            int(memory * GIB),
            capability,
            bandwidth * GB,
            PCIE_BYTES_PER_S_LANE[pcie] * lanes,
            None if tensor is None else tensor * 1e12,
        )
        for name, memory, bandwidth, lanes, tensor in rows
    }


GPUS: dict[str, Gpu] = {
    **_cards(
        TURING,
        3,
        ("RTX 2060", 6, 336, 16, 25.8),
        ("RTX 2060 12GB", 12, 336, 16, None),
        ("RTX 2060 SUPER", 8, 448, 16, 28.7),
        ("RTX 2070", 8, 448, 16, 29.9),
        ("RTX 2070 SUPER", 8, 448, 16, 36.2),
        ("RTX 2080", 8, 448, 16, 40.3),
        ("RTX 2080 SUPER", 8, 496, 16, 44.6),
        ("RTX 2080 Ti", 11, 616, 16, 53.8),
        ("T4", 16, 320, 16, 65),
    ),
    **_cards(
        AMPERE_RTX,
        4,
        ("RTX 3050", 8, 224, 8, 18.2),
        ("RTX 3060", 12, 360, 16, 25.5),
        ("RTX 3060 Ti", 8, 448, 16, 32.4),
        ("RTX 3070", 8, 448, 16, 40.6),
        ("RTX 3070 Ti", 8, 608, 16, 43.5),
        ("RTX 3080", 10, 760, 16, 59.5),
        ("RTX 3080 12GB", 12, 912, 16, 61.3),
        ("RTX 3080 Ti", 12, 912, 16, 68.2),
        ("RTX 3090", 24, 936, 16, 71),
        ("RTX 3090 Ti", 24, 1008, 16, 80),
        ("RTX A6000", 48, 768, 16, 154.8),
        ("A10", 24, 600, 16, 125),
        ("A40", 48, 696, 16, 149.7),
    ),
    **_cards(
        AMPERE,
        4,
        ("A30", 24, 933, 16, 165),
        ("A100 40GB", 40, 1555, 16, 312),
        ("A100 80GB", 80, 1935, 16, 312),
    ),
    **_cards(
        ADA,
        4,
        ("RTX 4060", 8, 272, 8, 30.2),
        ("RTX 4060 Ti", 8, 288, 8, 44.1),
        ("RTX 4060 Ti 16GB", 16, 288, 8, 44.1),
        ("RTX 4070", 12, 504, 16, 58.3),
        ("RTX 4070 SUPER", 12, 504, 16, 71),
        ("RTX 4070 Ti", 12, 504, 16, 80.2),
        ("RTX 4070 Ti SUPER", 16, 672, 16, 88.2),
        ("RTX 4080", 16, 717, 16, 97.5),
        ("RTX 4080 SUPER", 16, 736, 16, 104.4),
        ("RTX 4090", 24, 1008, 16, 165.2),
        ("RTX 6000 Ada", 48, 960, 16, 364.2),
        ("L4", 24, 300, 16, 121),
        ("L40S", 48, 864, 16, 362),
    ),
    **_cards(
        HOPPER,
        5,
        ("H100 PCIe", 80, 2000, 16, 756),
        ("H100", 80, 3350, 16, 989),
        ("H200", 141, 4800, 16, 989),
    ),
    **_cards(BLACKWELL, 5, ("B200", 180, 8000, 16, 2250)),
    **_cards(
        BLACKWELL_RTX,
        5,
        ("RTX 5050", 8, 320, 8, None),
        ("RTX 5060", 8, 448, 8, None),
        ("RTX 5060 Ti", 8, 448, 8, 47.4),
        ("RTX 5060 Ti 16GB", 16, 448, 8, 47.4),
        ("RTX 5070", 12, 672, 16, 61.7),
        ("RTX 5070 Ti", 16, 896, 16, 87.9),
        ("RTX 5080", 16, 960, 16, 112.6),
        ("RTX 5090", 32, 1792, 16, 209.5),
        ("RTX PRO 6000 Blackwell", 96, 1792, 16, None),
    ),
}


# As the driver calls cards whose name in the table is another one.
DRIVER_NAMES = {
    "NVIDIA A100-SXM4-40GB": "A100 40GB",
    "NVIDIA A100-PCIE-40GB": "A100 40GB",
    "NVIDIA A100-SXM4-80GB": "A100 80GB",
    "NVIDIA A100 80GB PCIe": "A100 80GB",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "RTX PRO 6000 Blackwell",
}


def find_gpu(name: str) -> Gpu:
    """The card of that name; case, spaces, "NVIDIA GeForce RTX" do not matter. ConfigError: near ones, else all."""
    known = {_key(each): gpu for each, gpu in GPUS.items()}
    gpu = known.get(_key(DRIVER_NAMES.get(name, name)))
    if gpu is not None:
        return gpu
    nearest = difflib.get_close_matches(_key(name), known, n=3, cutoff=0.5)
    names = [known[key].name for key in nearest]
    offered = f"nearest: {', '.join(names)}" if names else f"known: {', '.join(GPUS)}"
    raise ConfigError(f"--gpu {name}: no such card in the table", hint=f"{offered}; or give --vram-limit")


def _key(name: str) -> str:
    return re.sub(r"nvidia|geforce|rtx|[^a-z0-9]|gb$", "", re.sub(r"gb\b", "", name.lower()))
