"LoRA: what does not belong beside the definition"
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from logex_nb.generate.lora import WEIGHTS, Lora, accumulate, add_lora, encode_once, load_lora, noised_batch, train_lora
from logex_nb.generate.pipeline import load_pipeline, save_pipeline, tiny

ROOT = Path(__file__).parent.parent
QUICK = Lora(steps=2, batch=2, accumulation=1, lr=1e-2, precision="fp32")
IMAGES = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), np.uint8)
PROMPTS = ["naevus", "naevus", "dermis", "vessels"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_pipeline(tiny(["cells"], image_size=16, vae_channels=(8, 8), unet_channels=(8, 16), text_length=12), folder)
    return folder


def sample(pipe):
    return pipe("naevus", num_inference_steps=2, output_type="np", generator=torch.Generator().manual_seed(0),
                height=16, width=16).images


@pytest.mark.parametrize("modules, blocks", [("all", {"attn1", "attn2"}), ("cross", {"attn2"})])
def test_modules_in_the_file(base, tmp_path, modules, blocks):
    train_lora(load_pipeline(base), IMAGES, PROMPTS, replace(QUICK, modules=modules), 0, tmp_path)
    with safe_open(tmp_path / WEIGHTS, "pt") as f: names = list(f.keys())
    assert {k.split("transformer_blocks.0.")[1].split(".")[0] for k in names} == blocks
    assert {k.split(".lora.")[0].split("attn")[1][2:] for k in names} == {"to_q", "to_k", "to_v", "to_out.0"}


def test_bf16_keeps_the_update_in_fp32(base, tmp_path):
    pipe = train_lora(load_pipeline(base), IMAGES, PROMPTS, replace(QUICK, precision="bf16"), 0, tmp_path)
    update = [p for n, p in pipe.unet.named_parameters() if "lora_" in n]
    assert update and all(p.dtype == torch.float32 and p.isfinite().all() for p in update)


def test_base_in_bf16(base, tmp_path):
    pipe = load_pipeline(base, dtype=torch.bfloat16)
    train_lora(pipe, IMAGES, PROMPTS, replace(QUICK, precision="bf16"), 0, tmp_path)
    assert np.isfinite(sample(load_lora(load_pipeline(base), tmp_path))).all()


def test_fused_draws_the_same(base, tmp_path):
    pipe = train_lora(load_pipeline(base), IMAGES, PROMPTS, replace(QUICK, alpha=8), 0, tmp_path)
    apart, untouched = sample(pipe), sample(load_pipeline(base))
    pipe.fuse_lora()
    assert np.abs(sample(pipe) - apart).max() < 1e-4 < np.abs(untouched - apart).max()


def test_load_replaces_an_adapter(base, tmp_path):
    for seed in (0, 1): train_lora(load_pipeline(base), IMAGES, PROMPTS, QUICK, seed, tmp_path / str(seed))
    pipe = load_lora(load_lora(load_pipeline(base), tmp_path / "0"), tmp_path / "1")
    fresh = load_lora(load_pipeline(base), tmp_path / "1")
    assert len(pipe.unet.peft_config) == 1 and (sample(pipe) == sample(fresh)).all()
    assert not any(p.requires_grad for p in pipe.unet.parameters())


def test_gradient_by_finite_differences(base):
    pipe = load_pipeline(base)
    params = add_lora(pipe.unet.double(), QUICK, 0)
    for p in params: p.data = torch.randn_like(p.double()) * .1
    encoded = encode_once(pipe, IMAGES, PROMPTS, QUICK)
    inputs, noise = noised_batch(encoded, pipe.scheduler, QUICK, 0, 0)
    inputs, noise = (inputs[0].double(), inputs[1], inputs[2].double()), noise.double()
    loss = lambda: ((pipe.unet(*inputs).sample - noise) ** 2).mean().item()
    accumulate(pipe.unet, inputs, noise, QUICK)
    with torch.no_grad():
        for p in params[:: len(params) // 5]:
            p[0, 0] += 1e-5
            up = loss()
            p[0, 0] -= 2e-5
            assert (up - loss()) / 2e-5 == pytest.approx(p.grad[0, 0].item(), rel=1e-3, abs=1e-7)
            p[0, 0] += 1e-5


def test_posterior_is_sampled(base):
    pipe = load_pipeline(base)
    encoded = encode_once(pipe, IMAGES[:1], PROMPTS[:1], replace(QUICK, hflip=False))
    config = replace(QUICK, batch=2000)
    (noisy, times, _), noise = noised_batch(encoded, pipe.scheduler, config, 0, 0)
    abar = pipe.scheduler.alphas_cumprod[times].view(-1, 1, 1, 1).double()
    clean = (noisy - (1 - abar).sqrt() * noise) / abar.sqrt()
    assert (clean.std(0) / encoded.std[0, 0] - 1).abs().mean() < .05
    assert times.double().mean() == pytest.approx(499.5, abs=25) and times.min() < 5 and times.max() > 994


def test_each_image_equally_often(base):
    pipe = load_pipeline(base)
    config = replace(QUICK, batch=3, hflip=False, sample_posterior=False)
    encoded = encode_once(pipe, IMAGES, PROMPTS, config)
    encoded.mean.copy_(torch.arange(4.).view(4, 1, 1, 1, 1).expand_as(encoded.mean))
    seen = []
    for step in range(8):
        (noisy, times, _), noise = noised_batch(encoded, pipe.scheduler, config, 0, step)
        abar = pipe.scheduler.alphas_cumprod[times].view(-1, 1, 1, 1).double()
        seen += ((noisy - (1 - abar).sqrt() * noise) / abar.sqrt()).mean((1, 2, 3)).round().int().tolist()
    assert all(sorted(seen[i : i + 4]) == [0, 1, 2, 3] for i in range(0, 24, 4))


@pytest.mark.parametrize("change, message", [
    (dict(images=IMAGES[:0], prompts=[]), "give uint8"), (dict(images=IMAGES[..., 0]), "give uint8"),
    (dict(prompts=PROMPTS[:1]), "1 prompts for 4 images")])
def test_bad_input_leaves_an_old_result(base, tmp_path, change, message):
    (tmp_path / WEIGHTS).write_bytes(b"old")
    arguments = dict(images=IMAGES, prompts=PROMPTS) | change
    with pytest.raises(ValueError, match=message):
        train_lora(load_pipeline(base), config=QUICK, seed=0, folder=tmp_path, **arguments)
    assert (tmp_path / WEIGHTS).read_bytes() == b"old"


def test_base_that_predicts_something_else(base, tmp_path):
    pipe = load_pipeline(base)
    pipe.scheduler.register_to_config(prediction_type="v_prediction")
    with pytest.raises(ValueError, match="predicts 'v_prediction'"): train_lora(pipe, IMAGES, PROMPTS, QUICK, 0, tmp_path)


TWO = """
import sys
import numpy as np
import torch
from logex_nb.generate.lora import Lora, train_lora
from logex_nb.generate.pipeline import tiny

images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
train_lora(tiny(image_size=16), images, ["a picture"] * 6, Lora(rank=2, steps=3, batch=2, accumulation=3, lr=1e-2, precision="fp32", checkpoint_every=2), 0, sys.argv[1], progress=False)
"""


def test_two_processes_share_the_passes_of_a_step(tmp_path):
    "Three passes: two and one. The weights are those of one process up to rounding, and one process writes them"
    (script := tmp_path / "two.py").write_text(TWO)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] # what `accelerate launch` does on GPUs
    for name, before in dict(one=[], two=launch).items():
        done = subprocess.run([sys.executable, *before, script, tmp_path / name], capture_output=True, text=True, timeout=300, cwd=ROOT, env=os.environ | dict(ACCELERATE_USE_CPU="true"))
        assert not done.returncode, done.stderr[-2000:]
    one, two = (load_file(tmp_path / name / "pytorch_lora_weights.safetensors") for name in ("one", "two"))
    assert any(v.abs().max() > 0 for k, v in one.items() if "up" in k)
    for key, value in one.items(): torch.testing.assert_close(two[key], value, atol=1e-4, rtol=1e-3)
    assert len(list((tmp_path / "two").iterdir())) == 2
