"""Prompt to frames against the official sampler, from both trees; the schedule and the single operations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hvlite
from hvlite.kernels import ops
from hvlite.lite.models.embeddings import rope_tables, sinusoidal_embedding
from hvlite.lite.pipeline import Pipeline
from hvlite.lite.sampling import denoise, flow_schedule, guidance_input, initial_latents

LATENTS, FRAMES, TEXT, POOLED, OP = 1e-4, 2e-5, 1e-4, 1e-5, 1e-6
CASES = ("t2v", "t2v_cfg", "image")


@pytest.fixture(scope="module", params=["ckpts_official", "ckpts_diffusers"])
def pipeline(request: pytest.FixtureRequest, golden: Path) -> tuple[str, Pipeline]:
    config = json.loads((golden / "dit/dit.json").read_text())["config"]
    tree = request.param.removeprefix("ckpts_") + " tree"
    return tree, hvlite.load(golden / request.param, device="cpu", config=config, keep_loaded=True)


def settings(golden: Path, name: str) -> hvlite.GenerateConfig:
    case = json.loads((golden / "e2e/e2e.json").read_text())["cases"][name]
    height, width, frames = case["out_size"]
    arguments = case["args"]
    return hvlite.GenerateConfig(
        prompt=arguments["prompt"],
        height=height,
        width=width,
        frames=frames,
        steps=arguments["infer_steps"],
        guidance_scale=arguments["embedded_guidance_scale"],
        cfg_scale=arguments["guidance_scale"],
        flow_shift=arguments["flow_shift"],
        seed=arguments["seed"],
        fps=24,
    )


@pytest.mark.parametrize("name", CASES)
def test_end_to_end(golden, pipeline, compare, name):
    tree, pipe = pipeline
    config = settings(golden, name)
    case = load_file(golden / f"e2e/{name}.safetensors")
    arrangement = pipe.arrange(config)
    conditioning = pipe.embed(config, arrangement)
    for kind, embeds in (("prompt", conditioning.positive), ("neg", conditioning.negative)):
        if embeds is None:
            continue
        mask = case[f"{kind}_mask"]
        states = embeds.prompt_embeds[:, : int(mask.sum())]
        assert torch.equal(embeds.prompt_mask.int(), mask.int())
        compare(f"end to end {name}, {kind} states, {tree}", states, case[f"{kind}_embeds.llm_valid"], TEXT)
        compare(
            f"end to end {name}, {kind} pooled, {tree}",
            embeds.pooled_prompt_embeds,
            case[f"{kind}_embeds.clip"],
            POOLED,
        )
    noise = latents = initial_latents(config)
    assert torch.equal(noise, case["noise"])
    for done, latents in pipe.denoise(config, conditioning, noise, arrangement):
        expected = case["latents_final"] if done == config.steps else case[f"latents.{done}"]
        compare(f"end to end {name}, latents after step {done}, {tree}", latents, expected, LATENTS)
    tile = hvlite.TileSpec(height=4, width=4, frames=4)
    with torch.no_grad(), pipe.parts.vae() as vae:
        video = vae.decode(latents / vae.config.scaling_factor, tile=tile)
    frames = (video / 2 + 0.5).clamp(0, 1)
    expected = case["frames"].unsqueeze(2) if case["frames"].ndim == 4 else case["frames"]
    compare(f"end to end {name}, frames, {tree}", frames, expected, FRAMES)


def test_generate_gives_the_official_frames(golden, pipeline):
    """The public call, whose frames are bytes: at most one grey level from the official float frames, rarely."""
    tree, pipe = pipeline
    if tree == "diffusers tree":
        pytest.skip("the diffusers tree does not carry the tile geometry the official frames were made with")
    case = load_file(golden / "e2e/t2v.safetensors")
    video = pipe.generate(settings(golden, "t2v"))
    expected = (case["frames"][0] * 255).to(torch.uint8).permute(1, 2, 3, 0)
    assert video.frames.shape == expected.shape
    difference = (video.frames.int() - expected.int()).abs()
    assert int(difference.max()) <= 1
    assert float(difference.float().mean()) < 0.01
    assert video.settings["seed"] == 42


def test_schedule_is_exact(golden):
    table = json.loads((golden / "scheduler/scheduler.json").read_text())["schedules"]
    for row in table:
        schedule = flow_schedule(row["steps"], row["shift"], reverse=row["reverse"])
        assert schedule.sigmas.tolist() == pytest.approx(row["sigmas"], abs=0, rel=0)
        assert schedule.timesteps.tolist() == pytest.approx(row["timesteps"], abs=0, rel=0)


def test_euler_trajectory_is_exact(golden):
    case = load_file(golden / "scheduler/trajectory.safetensors")
    outputs = iter([case[f"model_output.{index}"] for index in range(6)])
    steps = denoise(lambda latents, step: next(outputs), case["x0"], flow_schedule(6, 7.0))
    for done, latents in steps:
        assert torch.equal(latents, case[f"x.{done}"])


def test_a_later_start_gives_the_same_bits(golden):
    case = load_file(golden / "scheduler/trajectory.safetensors")
    outputs = iter([case[f"model_output.{index}"] for index in range(4, 6)])
    steps = list(denoise(lambda latents, step: next(outputs), case["x.4"], flow_schedule(6, 7.0), start=4))
    assert [done for done, _ in steps] == [5, 6]
    assert torch.equal(steps[-1][1], case["x.6"])


def test_guidance_is_rounded_as_the_official_code_rounds(golden):
    table = json.loads((golden / "micro/micro.json").read_text())["guidance_value_fed_to_model_by_dit_precision"]
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    for scale, by_dtype in table.items():
        for name, expected in by_dtype.items():
            assert float(guidance_input(float(scale), dtypes[name])) == expected


@pytest.fixture(scope="module")
def micro(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "micro/micro.safetensors")


def test_rms_norm(micro, compare):
    x, weight = micro["rmsnorm.x"], micro["rmsnorm.weight"]
    compare("op rms_norm, fp32", ops.rms_norm(x, weight), micro["rmsnorm.out_fp32"], OP)
    bf16 = ops.rms_norm(x.bfloat16(), weight.bfloat16())
    assert torch.equal(bf16, micro["rmsnorm.out_bf16"])


def test_layer_norm(micro, compare):
    x = micro["layernorm.x"]
    nothing = torch.zeros(x.shape[0], x.shape[-1])
    compare("op modulated_norm, fp32", ops.modulated_norm(x, nothing, nothing), micro["layernorm.out_fp32"], OP)
    bf16 = ops.modulated_norm(x.bfloat16(), nothing, nothing)
    assert float((bf16.float() - micro["layernorm.out_bf16"].float()).abs().max()) <= 0.016  # one bf16 ulp at 2..4


def test_timestep_embedding(micro, compare):
    compare("timestep embedding, t up to 8512", sinusoidal_embedding(micro["timestep.t"]), micro["timestep.emb256"], OP)


def test_rope(micro, compare):
    cos, sin = rope_tables((2, 3, 4), (16, 56, 56), 256.0, torch.device("cpu"))
    compare("rotary table [16, 56, 56]", cos.repeat_interleave(2, dim=-1), micro["rope.cos"], OP)
    q = micro["rope.q"]
    compare("op apply_rope, fp32", ops.apply_rope(q, cos, sin), micro["rope.q_out_fp32"], OP)
    assert torch.equal(ops.apply_rope(q.bfloat16(), cos, sin), micro["rope.q_out_bf16"])


def test_attention_over_valid_tokens(micro, compare):
    mask = micro["attn.text_mask"]
    for row in range(2):
        valid = 7 + int(mask[row].sum())
        q, k, v = (micro[f"attn.{name}"][row : row + 1, :valid] for name in "qkv")
        out = ops.joint_attention(q, k, v).flatten(2)
        compare("op joint_attention, valid tokens", out, micro["attn.out"][row : row + 1, :valid], OP)
