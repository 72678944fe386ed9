"""On a CUDA device: memory that really runs out, under a cap of this process or because another one takes it."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import hvlite
from hvlite.errors import MemoryLimitError
from hvlite.lite.arrangement import Arrangement
from hvlite.lite.config import GenerateConfig, GenerateRequest
from hvlite.lite.events import Event, StepDone, ignore
from hvlite.lite.guidance import Conditioning
from hvlite.lite.interrupt import StopFlag
from hvlite.lite.job import run_generate
from hvlite.lite.models.transformer import HunyuanVideoTransformer
from hvlite.lite.models.vae import AutoencoderKLCausal3D
from hvlite.lite.pipeline import Pipeline
from hvlite.lite.recovery.recoveries import Recoveries
from hvlite.lite.recovery.rungs import SAME_AGAIN, TileWay, next_rung
from hvlite.lite.recovery.tiles import RecoveringTiles
from hvlite.lite.sampling import initial_latents
from hvlite.lite.state.latents_file import read_latents
from hvlite.lite.streaming.tiers import TierCounts
from hvlite.lite.text import PromptEmbeds
from hvlite.lite.tiling import TileSpec
from hvlite.quantize.architecture import TransformerConfig, VaeConfig
from hvlite.quantize.convert import QuantizeOptions, run_quantize

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda", 0)
MIB = 1 << 20

# 16 blocks of 24 and 48 MiB, so that the allocator's 20 MiB segments for small tensors do not matter.
ARCHITECTURE = TransformerConfig(
    hidden_size=1024,
    heads_num=8,
    mm_double_blocks_depth=2,
    mm_single_blocks_depth=14,
    rope_dim_list=(16, 56, 56),
    text_states_dim=64,
    text_states_dim_2=64,
    refiner_depth=1,
)
BLOCKS = 16
WORK = GenerateConfig(
    prompt="none is read", height=512, width=768, frames=17, steps=3, guidance_scale=6.0, flow_shift=7.0, seed=1, fps=8
)
TOKENS = 5 * 32 * 48
RESIDENT = Arrangement(tiers=TierCounts(resident=BLOCKS))


def make_model(folder: Path, architecture: TransformerConfig) -> Path:
    """A random transformer as an hvlite folder of bf16 blocks, and nothing else."""
    with torch.device("meta"):
        names = {name: tensor.shape for name, tensor in HunyuanVideoTransformer(architecture).state_dict().items()}
    generator = torch.Generator().manual_seed(3)
    weights = {name: torch.randn(shape, generator=generator).mul_(0.02).bfloat16() for name, shape in names.items()}
    save_file(weights, folder / "transformer.safetensors")
    rope = {"rope_dim_list": list(architecture.rope_dim_list)}
    output = folder / "model"
    run_quantize(
        QuantizeOptions(
            folder / "transformer.safetensors",
            output,
            transformer="bf16",
            parts=("transformer",),
            model_config=rope,
            workers=1,
        )
    )
    return output


def conditioning_of(architecture: TransformerConfig) -> Conditioning:
    generator = torch.Generator().manual_seed(2)
    return Conditioning(
        PromptEmbeds(
            prompt_embeds=torch.randn(1, 32, architecture.text_states_dim, generator=generator),
            prompt_mask=torch.ones(1, 32, dtype=torch.int64),
            pooled_prompt_embeds=torch.randn(1, architecture.text_states_dim_2, generator=generator),
        )
    )


def ladder_of(arrangement: Arrangement, tokens: int) -> list[str]:
    """All that can be recorded of a run, in order: the rungs, and the last try with nothing changed."""
    records = []
    while rung := next_rung(arrangement, tokens):
        arrangement = rung.arrangement
        records.append(rung.record)
    return [*records, SAME_AGAIN]


def check_rungs(lines: list[str], step: int, ladder: list[str]) -> None:
    """At least one rung was taken, in that step, and none was left out."""
    assert lines
    assert lines == [f"denoise step {step} of {WORK.steps}: {record}" for record in ladder[: len(lines)]]


def same_bits(lines: list[str]) -> bool:
    """Whether no rung was taken that rounds differently."""
    return not any("token_chunk" in line for line in lines)


@pytest.fixture(autouse=True)
def whole_card() -> Iterator[None]:
    """Before and after: the memory of a test is given back, and no cap is left."""
    give_back()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
    give_back()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("gpu"), ARCHITECTURE)


@pytest.fixture
def pipeline(folder: Path) -> Iterator[Pipeline]:
    pipeline = hvlite.load(folder, device="cuda", tier="resident", attention="sdpa", keep_loaded=True)
    yield pipeline
    pipeline.parts.forget("transformer")


def test_a_cap_that_closes_between_two_steps(pipeline: Pipeline) -> None:
    """Half of what a step takes is there: blocks go to disk, and the latents have the same bits."""
    conditioning, noise = conditioning_of(ARCHITECTURE), initial_latents(WORK)
    wanted, idle, peak = uncapped(pipeline, conditioning, noise)
    reserved = torch.cuda.memory_reserved(CUDA)
    step_bytes = peak - idle
    assert reserved - idle < step_bytes, "holes between the weights hold a step: no cap is felt"
    recoveries, ours = Recoveries(), []
    for done, latents in pipeline.denoise(WORK, conditioning, noise, RESIDENT, recoveries=recoveries):
        ours.append(latents.cpu())
        if done == 1:
            cap(idle + step_bytes // 2)
    check_rungs(recoveries.lines, 2, ladder_of(RESIDENT, TOKENS))
    assert same_bits(recoveries.lines)
    assert all(torch.equal(one, other) for one, other in zip(ours, wanted, strict=True))


def test_a_cap_below_all_blocks_from_the_start(pipeline: Pipeline) -> None:
    """An eighth of the weights too little: half of the blocks stay on the device."""
    conditioning, noise = conditioning_of(ARCHITECTURE), initial_latents(WORK)
    wanted, idle, peak = uncapped(pipeline, conditioning, noise)
    pipeline.parts.forget("transformer")
    cap(peak - idle // 8)
    recoveries = Recoveries()
    steps = pipeline.denoise(WORK, conditioning, noise, RESIDENT, recoveries=recoveries)
    ours = [latents.cpu() for _, latents in steps]
    check_rungs(recoveries.lines, 1, ladder_of(RESIDENT, TOKENS))
    assert same_bits(recoveries.lines)
    assert all(torch.equal(one, other) for one, other in zip(ours, wanted, strict=True))


def test_a_cap_below_everything_is_one_error_and_the_card_is_well(pipeline: Pipeline) -> None:
    conditioning, noise = conditioning_of(ARCHITECTURE), initial_latents(WORK)
    give_back()
    cap(torch.cuda.memory_reserved(CUDA) + 32 * MIB)  # less than what is outside of the blocks
    recoveries = Recoveries()
    with pytest.raises(MemoryLimitError, match="out of memory in step 1 of 3"):
        list(pipeline.denoise(WORK, conditioning, noise, RESIDENT, recoveries=recoveries))
    check_rungs(recoveries.lines, 1, ladder_of(RESIDENT, TOKENS))
    assert recoveries.lines[-1].endswith(SAME_AGAIN)
    torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
    assert len(list(pipeline.denoise(WORK, conditioning, noise, RESIDENT))) == WORK.steps


@pytest.mark.parametrize("rungs", [1, 2], ids=["in chunks of time", "in parts"])
def test_a_tile_of_the_official_size(rungs: int) -> None:
    """Under a cap half as large again as what the way takes that is to be ended with."""
    torch.manual_seed(4)
    with CUDA:
        vae = AutoencoderKLCausal3D(VaeConfig()).half().eval()
    latents = torch.randn(1, 16, 17, 32, 32, generator=torch.Generator().manual_seed(5)).to(CUDA, torch.float16)
    parts = TileSpec(frames=17, height=16, width=16)
    ways = (TileWay(), TileWay(lean=True), TileWay(lean=True, parts=parts))
    made, peaks = zip(*(tile_and_peak(vae, latents, way) for way in ways), strict=True)
    assert peaks[rungs - 1] > 1.7 * peaks[rungs], "the way before would fit as well"
    cap(int((1.5 if rungs == 1 else 1.3) * peaks[rungs]))
    recoveries = Recoveries()
    pixels = decode_tile(vae, latents, TileWay(), recoveries)
    records = ["tile whole -> in chunks of time", "tile 17x32x32 -> parts of 17x16x16"]
    assert recoveries.lines == [f"decode tile 1 of 1: {record}" for record in records[:rungs]]
    assert pixels.shape == (1, 3, 65, 256, 256)
    # cuDNN takes other algorithms where there is less room for their workspaces.
    assert (pixels - made[rungs]).abs().mean() <= 0.02 * made[rungs].abs().mean()


def test_another_process_takes_the_card_between_two_steps(pipeline: Pipeline, ballast: Ballast) -> None:
    """It leaves half of what a step takes: what the ladder gives back is ours again."""
    conditioning, noise = conditioning_of(ARCHITECTURE), initial_latents(WORK)
    wanted, idle, peak = uncapped(pipeline, conditioning, noise)
    recoveries, ours = Recoveries(), []
    for done, latents in pipeline.denoise(WORK, conditioning, noise, RESIDENT, recoveries=recoveries):
        ours.append(latents.cpu())
        if done == 1:
            give_back()
            ballast.say("take", (peak - idle) // 2)
    check_rungs(recoveries.lines, 2, ladder_of(RESIDENT, TOKENS))
    if same_bits(recoveries.lines):
        assert all(torch.equal(one, other) for one, other in zip(ours, wanted, strict=True))
    assert torch.equal(ours[0], wanted[0])


@pytest.mark.parametrize("word", ["take", "keep"])
def test_a_whole_run_while_another_process_eats_the_card(
    clean_model: Path, config: GenerateConfig, tmp_path: Path, ballast: Ballast, word: str
) -> None:
    """Once, or all that is given back as well: the run gets by, or ends in one error and goes on afterwards."""
    asked = GenerateRequest(
        config=config, output=tmp_path / "a.mp4", model=clean_model, device="cuda", keep_latents=True
    )
    whole = replace(asked, output=tmp_path / "whole.mp4")
    run_generate(whole, ignore, StopFlag())
    give_back()

    def eat(event: Event) -> None:
        if isinstance(event, StepDone) and event.stage == "denoise" and event.index == 1:
            give_back()
            ballast.say(word, 0)

    failure = None
    try:
        run_generate(asked, eat, StopFlag())
    except MemoryLimitError as error:
        failure = error
    if failure is not None:
        assert "out of memory" in failure.message
        assert failure.hint
        assert not asked.output.exists()
        state = Path(f"{asked.output}.hvlite")
        kept = [path for path in (state / "latents.safetensors", state / "step.safetensors") if path.exists()]
        assert (read_latents(kept[0])[1].step or config.steps) >= 1
        ballast.end()
        give_back()
        run_generate(replace(asked, resume=True), ignore, StopFlag())
    assert asked.output.exists()
    ours, wanted = (read_latents(Path(f"{each.output}.hvlite/latents.safetensors"))[0] for each in (asked, whole))
    assert torch.equal(ours, wanted)  # too few tokens for a rung that rounds differently


class Ballast:
    """The other process."""

    def __init__(self) -> None:
        program = [sys.executable, str(Path(__file__).with_name("ballast.py"))]
        self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._hear("ready")

    def say(self, word: str, leave_bytes: int) -> None:
        """See ballast.py; returns when it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word} {leave_bytes}\n")
        self._process.stdin.flush()
        self._hear({"take": "taken", "keep": "keeping"}[word])

    def end(self) -> None:
        """Its memory is free again when this returns."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def _hear(self, expected: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == expected


@pytest.fixture
def ballast() -> Iterator[Ballast]:
    process = Ballast()
    yield process
    process.end()


def give_back() -> None:
    gc.collect()
    torch.cuda.synchronize(CUDA)
    torch.cuda.empty_cache()


def cap(nbytes: int) -> None:
    """What torch may have of the card in this process, the context apart, from now on: what it keeps unused goes."""
    give_back()
    torch.cuda.set_per_process_memory_fraction(nbytes / torch.cuda.get_device_properties(CUDA).total_memory, CUDA)


def uncapped(pipeline: Pipeline, conditioning: Conditioning, noise: Tensor) -> tuple[list[Tensor], int, int]:
    """The latents after each step; bytes allocated between two steps, and at the peak of one."""
    steps: list[Tensor] = []
    for done, latents in pipeline.denoise(WORK, conditioning, noise, RESIDENT):
        steps.append(latents.cpu())
        if done == 1:
            idle = torch.cuda.memory_allocated(CUDA)
            torch.cuda.reset_peak_memory_stats(CUDA)
    peak = torch.cuda.max_memory_allocated(CUDA)
    torch.cuda.empty_cache()
    return steps, idle, peak


def decode_tile(vae: AutoencoderKLCausal3D, latents: Tensor, way: TileWay, recoveries: Recoveries) -> Tensor:
    """[1, 3, F, H, W] fp32 on the CPU."""
    names: Iterator[str] = iter(["tile 1 of 1"])
    decode: Callable[[Tensor], Tensor] = RecoveringTiles(
        vae, names, way=way, on_nonfinite="stop", on_event=ignore, recoveries=recoveries
    )
    with torch.no_grad():
        return decode(latents).float()


def tile_and_peak(vae: AutoencoderKLCausal3D, latents: Tensor, way: TileWay) -> tuple[Tensor, int]:
    """Its pixels, and the bytes that torch had of the card for them at most."""
    give_back()
    torch.cuda.reset_peak_memory_stats(CUDA)
    recoveries = Recoveries()
    pixels = decode_tile(vae, latents, way, recoveries)
    assert recoveries.lines == []
    return pixels, torch.cuda.max_memory_allocated(CUDA)
