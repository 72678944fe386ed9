"""Values that are no numbers, or one number everywhere, stop a run where they arise, with the work before them kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hvlite
from hvlite.errors import NonFiniteError
from hvlite.lite.config import DecodeRequest, GenerateRequest
from hvlite.lite.events import Event, Note, ignore
from hvlite.lite.interrupt import StopFlag
from hvlite.lite.job import run_decode, run_generate
from hvlite.lite.output.video_read import read_video
from hvlite.lite.recovery.watchdog import fault_of, frames_fault
from hvlite.lite.sampling import initial_latents
from hvlite.lite.state.latents_file import LatentsNote, write_latents

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([1.0, 2.0], None),
        ([0.0, NAN, 1.0], "has NaN or infinity in it"),
        ([0.0, float("inf")], "has NaN or infinity in it"),
        ([-float("inf"), 0.0], "has NaN or infinity in it"),
        ([0.0, 0.0, 0.0], "is 0 everywhere"),
        ([0.5, 0.5], "is 0.5 everywhere"),
        ([3.0], None),  # a single value is no pattern
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_fault_is_found(values, fault, dtype):
    assert fault_of(torch.tensor(values, dtype=dtype)) == fault


def test_frames_of_one_colour():
    frames = torch.zeros(3, 4, 6, 3, dtype=torch.uint8)
    assert frames_fault(frames) == "black"
    assert frames_fault(frames + 255) == "white"
    frames[2, 1, 5, 0] = 1
    assert frames_fault(frames) is None


def generate(model: Path, output: Path, config, **changes) -> list[Event]:
    events: list[Event] = []
    asked = GenerateRequest(config=config, output=output, model=model, keep_latents=True, **changes)
    run_generate(asked, events.append, StopFlag())
    return events


@pytest.mark.parametrize("tier", ["resident", "host", "disk"])
@pytest.mark.parametrize(
    ("block", "name", "said"),
    [
        ("double_blocks.01", "double_blocks.1.img_mlp.fc2.weight", "double_blocks.1"),
        ("single_blocks.00", "single_blocks.0.linear2.weight", "single_blocks.0"),
    ],
)
def test_the_step_and_the_block_are_named(model, tmp_path, config, set_weight, block, name, said, tier):
    set_weight(model / f"transformer/{block}.safetensors", name, NAN)
    with pytest.raises(NonFiniteError) as caught:
        generate(model, tmp_path / "a.mp4", config, tier=tier)
    assert f"step 1 of 3: the transformer's prediction has NaN or infinity in it (fp32), first after {said}" == (
        caught.value.message
    )
    assert "hvlite verify" in str(caught.value.hint)


def test_the_negative_prompt_is_named(model, config, monkeypatch):
    """Only what the negative prompt goes through is bad."""
    pipeline = hvlite.load(model, device="cpu")
    guided = replace(config, cfg_scale=3.0)
    conditioning = pipeline.embed(guided)
    conditioning.negative.prompt_embeds[0, 0, 0] = NAN
    with pytest.raises(NonFiniteError, match=r"first after the text encoders \(negative prompt\)"):
        list(pipeline.denoise(guided, conditioning, initial_latents(guided)))


def test_memory_that_goes_bad_is_found_in_the_step_it_matters(clean_model, config):
    """The weights are well when they are loaded; steps before the fault are those of a healthy run."""
    pipeline = hvlite.load(clean_model, device="cpu", keep_loaded=True)
    conditioning, noise = pipeline.embed(config), initial_latents(config)
    healthy = [latents for _, latents in pipeline.denoise(config, conditioning, noise)]
    done = []

    def breaks_after_step_2() -> None:
        for step, latents in pipeline.denoise(config, conditioning, noise):
            done.append(latents)
            if step == 2:
                with pipeline.parts.transformer(pipeline.arrange(config)) as transformer:
                    list(transformer.blocks.each())[-1].linear2.weight[0, 0] = NAN

    with pytest.raises(NonFiniteError, match=r"step 3 of 3: .* first after single_blocks\.1"):
        breaks_after_step_2()
    assert len(done) == 2
    assert all(torch.equal(one, other) for one, other in zip(done, healthy, strict=False))


def test_weights_of_zeros_are_noticed(model, tmp_path, config, set_weight):
    """What a file of the right size whose data never came looks like."""
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        set_weight(model / "transformer/outer.safetensors", name, 0.0, count=-1)
    with pytest.raises(NonFiniteError, match=r"step 1 of 3: the transformer's prediction is 0 everywhere.*final_layer"):
        generate(model, tmp_path / "a.mp4", config)


@pytest.fixture
def half(model, set_weight):
    """A pipeline in fp16 whose first block overflows there and nowhere else."""
    weights = model / "transformer/double_blocks.00.safetensors"
    set_weight(weights, "double_blocks.0.img_mlp.fc2.weight", 60000.0, count=-1)

    def load(on_nonfinite: str, dtype: torch.dtype = torch.float16, events: list[Event] | None = None):
        listen = ignore if events is None else events.append
        pipeline = hvlite.load(model, device="cpu", on_nonfinite=on_nonfinite, on_event=listen)
        pipeline.parts.dtypes = replace(pipeline.parts.dtypes, transformer=dtype)
        return pipeline

    return load


def test_retry_repeats_the_step_in_fp32(half, config):
    events: list[Event] = []
    pipeline, exact = half("retry", events=events), half("stop", torch.float32)
    conditioning = exact.embed(config)
    noise = initial_latents(config)
    ours = [latents for _, latents in pipeline.denoise(config, conditioning, noise)]
    wanted = [latents for _, latents in exact.denoise(config, conditioning, noise)]
    assert all(torch.equal(one, other) for one, other in zip(ours, wanted, strict=True))
    told = [event.text for event in events if isinstance(event, Note)]
    assert len(told) == config.steps
    assert "first after double_blocks.0: repeating the step in fp32" in told[0]


def test_stop_is_the_default_and_says_what_retry_would_do(half, config):
    pipeline = half("stop")
    with pytest.raises(NonFiniteError) as caught:
        list(pipeline.denoise(config, pipeline.embed(config), initial_latents(config)))
    assert "(fp16), first after double_blocks.0" in caught.value.message
    assert "--on-nonfinite retry" in str(caught.value.hint)


def test_there_is_nothing_higher_than_fp32(model, config, tmp_path, set_weight):
    set_weight(model / "transformer/single_blocks.01.safetensors", "single_blocks.1.linear2.weight", NAN)
    with pytest.raises(NonFiniteError) as caught:
        generate(model, tmp_path / "a.mp4", config, on_nonfinite="retry")
    assert "nothing is higher than fp32" in str(caught.value.hint)


def test_a_precise_retry_that_fails_too_says_both(half, model, config, set_weight):
    set_weight(model / "transformer/single_blocks.01.safetensors", "single_blocks.1.linear2.weight", NAN)
    pipeline = half("retry")
    with pytest.raises(NonFiniteError, match=r"repeated in fp32: step 1 of 3"):
        list(pipeline.denoise(config, pipeline.embed(config), initial_latents(config)))


# The decode


def test_the_tile_is_named(model, config):
    pipeline = hvlite.load(model, device="cpu")
    latents = torch.randn(1, 16, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    with pipeline.parts.vae() as vae:
        size = vae.official_tile.height
    wide = torch.randn(1, 16, 2, 2, 2 * size, generator=torch.Generator().manual_seed(1))
    wide[..., -1] = NAN
    with pytest.raises(
        NonFiniteError, match=r"decoding tile 3 of 3 \(latent frames from 0, rows from 0, columns from 48\)"
    ):
        list(pipeline.decode(wide))
    assert list(pipeline.decode(latents))


def test_a_tile_that_overflows_in_fp16_is_repeated_in_fp32(model, set_weight):
    set_weight(model / "vae/diffusion_pytorch_model.safetensors", "decoder.conv_out.conv.weight", 60000.0, count=-1)
    latents = torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(1))
    events: list[Event] = []

    def load(on_nonfinite: str, dtype: torch.dtype):
        pipeline = hvlite.load(model, device="cpu", on_nonfinite=on_nonfinite, on_event=events.append, keep_loaded=True)
        pipeline.parts.dtypes = replace(pipeline.parts.dtypes, vae=dtype)
        return pipeline

    with pytest.raises(NonFiniteError, match=r"tile 1 of 1 .* has NaN or infinity in it \(float16\)"):
        list(load("stop", torch.float16).decode(latents))
    pipeline = load("retry", torch.float16)
    ours = torch.cat(list(pipeline.decode(latents)))
    with pipeline.parts.vae() as vae:
        assert vae.dtype is torch.float16  # the next tile is an ordinary one again
    wanted = torch.cat(list(load("stop", torch.float32).decode(latents)))
    assert (ours.int() - wanted.int()).abs().max() <= 255  # latents were rounded to fp16 before
    assert (ours != wanted).float().mean() < 0.05
    assert next(event.text for event in events if isinstance(event, Note)).endswith("repeating the tile in float32")


@pytest.fixture
def black(model, set_weight):
    """A VAE whose pixels are far below black, each a little different."""
    vae = model / "vae/diffusion_pytorch_model.safetensors"
    set_weight(vae, "decoder.conv_out.conv.bias", -30000.0, count=-1)
    return model


def test_black_frames_stop_a_run_with_its_latents_kept_and_decode_writes_them(black, tmp_path, config):
    output = tmp_path / "a.mp4"
    with pytest.raises(NonFiniteError, match="5 frames in a row are black") as caught:
        generate(black, output, config)
    assert "hvlite decode" in str(caught.value.hint)
    assert not output.exists()
    kept = Path(f"{output}.hvlite/latents.safetensors")
    events: list[Event] = []
    run_decode(DecodeRequest(latents=kept, output=output, model=black), events.append, StopFlag())
    assert any(isinstance(event, Note) and "are black" in event.text for event in events)
    assert not bool(read_video(output)[0].any())


def test_a_vae_that_says_one_value_everywhere_is_not_believed(model, set_weight):
    """Also by `hvlite decode`: the pixels before they are cut to 0..255 tell a dead VAE from a dark scene."""
    set_weight(model / "vae/diffusion_pytorch_model.safetensors", "decoder.conv_out.conv.weight", 0.0, count=-1)
    set_weight(model / "vae/diffusion_pytorch_model.safetensors", "decoder.conv_out.conv.bias", 0.0, count=-1)
    latents = torch.randn(1, 16, 2, 4, 6)
    with pytest.raises(NonFiniteError, match=r"tile 1 of 1 .*: the VAE's output is 0 everywhere"):
        list(hvlite.load(model, device="cpu").decode(latents, one_colour=True))


def test_latents_with_nan_are_refused_by_decode_and_stay(clean_model, tmp_path, config):
    pipeline = hvlite.load(clean_model, device="cpu")
    latents = torch.randn(config.latent_shape)
    latents[0, 3, 1, 2, 2] = NAN
    path = tmp_path / "latents.safetensors"
    note = LatentsNote({**pipeline.settings(config), "model_fingerprint": pipeline.fingerprint}, "")
    write_latents(path, latents, note)
    with pytest.raises(NonFiniteError, match="tile 1 of 1"):
        run_decode(DecodeRequest(latents=path, output=tmp_path / "a.mp4", model=clean_model), ignore, StopFlag())
    assert path.exists()
