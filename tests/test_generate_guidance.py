"Guidance against the published algorithm written out plainly, and a run that is killed for real"
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from logex_nb.core import sha256
from logex_nb.generate.guidance import Guidance, guide, make_starts
from logex_nb.generate.manifest import generate_folder, read_lines
from logex_nb.generate.pipeline import decode_latents, encode_prompts, tiny

PROMPTS, IDS = dict(red="a red picture", blue="a blue picture"), dict(red=0, blue=2)
CONFIG = Guidance(num_inference_steps=3, guidance_steps=3, guidance_lr=.3, latent_lr=.15, stop=.6,
                  classifier_size=24, batch=2, per_class=2, checkpointing=False)


class Colour(torch.nn.Module):
    def forward(self, images): return 100 * (images.mean((2, 3)) - torch.tensor([.42, .53, .57]))


def make():
    return tiny(list(PROMPTS.values()))


def plainly(pipe, classifier, start, config):
    "One image at a time, with torch's Adam and diffusers' scheduler: confidence of every iterate"
    steps, scheduler = config.num_inference_steps, DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    cond, uncond = encode_prompts(pipe, [start.prompt]), encode_prompts(pipe, [""])
    z = start.latents(pipe)[None].requires_grad_()
    radius = z.detach().norm()
    d_c, d_u = (torch.zeros(steps, *cond.shape, requires_grad=True) for _ in range(2))
    adam = torch.optim.Adam([dict(params=[d_c, d_u], lr=config.guidance_lr), dict(params=[z], lr=config.latent_lr)])
    path = []
    while True:
        w, probabilities = z, []
        for i, t in enumerate(scheduler.timesteps):
            noise_u = pipe.unet(w, t, uncond + d_u[i]).sample
            noise = noise_u + config.guidance_scale * (pipe.unet(w, t, cond + d_c[i]).sample - noise_u)
            step = scheduler.step(noise, t, w)
            w = step.prev_sample
            seen = step.pred_original_sample
            if config.legacy_double_step: seen = scheduler.step(noise, t, w).pred_original_sample
            images = decode_latents(pipe, seen)
            images = torch.nn.functional.interpolate(images, size=[config.classifier_size] * 2, mode="bicubic")
            probabilities.append(classifier(images).softmax(-1)[0, start.target])
        path.append(probabilities[-1].item())
        loss = sum(-p * k for k, p in enumerate(probabilities[-3:], 1)) / 6
        if len(path) > config.guidance_steps or loss.item() < -config.stop: return path
        adam.zero_grad(), loss.backward(), adam.step()
        with torch.no_grad(): z *= radius / z.norm()


@pytest.mark.parametrize("legacy", [False, True])
def test_same_path_as_the_plain_algorithm(legacy):
    pipe, config = make(), replace(CONFIG, legacy_double_step=legacy)
    for found in guide(pipe, Colour(), make_starts(PROMPTS, IDS, config), config):
        plain = plainly(pipe, Colour(), found.start, config)
        assert len(plain) == len(found.confidence)
        np.testing.assert_allclose(plain, found.confidence, atol=1e-4)


def test_checkpointing_gives_the_same_images():
    pipe, starts = make(), make_starts(PROMPTS, IDS, replace(CONFIG, per_class=1))
    runs = [list(guide(pipe, Colour(), starts, replace(CONFIG, checkpointing=on))) for on in (False, True)]
    for a, b in zip(*runs): np.testing.assert_allclose(a.confidence, b.confidence, atol=1e-5)


def test_a_killed_run_ends_with_the_same_files(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import test_generate_guidance as t\n"
            "t.generate_folder(t.make(), t.Colour(), t.PROMPTS, t.IDS, t.CONFIG, sys.argv[2], progress=False)")
    process = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), str(killed)])
    try:
        while process.poll() is None and len(read_lines(killed / "manifest.csv")) < 1: time.sleep(.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 1 <= len(read_lines(killed / "manifest.csv")) < 4
    tables = [generate_folder(make(), Colour(), PROMPTS, IDS, CONFIG, f, progress=False) for f in (killed, whole)]
    for t in tables: t.pop("seconds")
    assert tables[0].equals(tables[1])
    digests = [{p.relative_to(f): sha256(p) for p in f.rglob("*.png")} for f in (killed, whole)]
    assert digests[0] == digests[1] and len(digests[0]) == 8
