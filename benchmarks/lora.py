"""LoRA training with latents and prompt embeddings cached against encoding them in every step.

    nice -n 10 python benchmarks/lora.py            # writes results/benchmarks/lora.json
    nice -n 10 python benchmarks/lora.py --sd14     # adds random weights at the size of Stable Diffusion 1.4

The arms take turns step by step in one process, on the same images, with the same settings and the same
optimiser. Ratios are of medians; on a CPU they are of CPU seconds, so that other processes count little.
"""
import argparse
import json
import time
from dataclasses import replace
from statistics import median

import numpy as np
import torch

from logex_nb.core import child_seed, environment, repo_root, write_json
from logex_nb.generate.lora import Lora, accumulate, add_lora, encode_once, noised_batch
from logex_nb.generate.pipeline import build_pipeline, encode_prompts, load_pipeline, stable_diffusion


def draw_encoding(pipe, images, prompts, config, seed, step):
    "The examples of one step, with VAE and text encoder asked again, in passes of `config.batch`"
    rng = torch.Generator().manual_seed(child_seed(seed, "lora", step))
    m, device = config.batch * config.accumulation, pipe.unet.device
    rows = torch.randint(len(images), (m,), generator=rng)
    latents, text = [], []
    with torch.no_grad():
        for part in rows.split(config.batch):
            x = torch.tensor(images[part.numpy()]).permute(0, 3, 1, 2).to(device) / 127.5 - 1
            flip = (torch.rand(len(x), 1, 1, 1, generator=rng) < .5).to(device)
            posterior = pipe.vae.encode(torch.where(flip, x.flip(3), x)).latent_dist
            spread = torch.randn(posterior.mean.shape, generator=rng).to(device)
            latents.append((posterior.mean + posterior.std * spread) * pipe.vae.config.scaling_factor)
            text.append(encode_prompts(pipe, [prompts[i] for i in part]))
    latents, text = torch.cat(latents), torch.cat(text)
    times = torch.randint(1000, (m,), generator=rng).to(device)
    noise = torch.randn(latents.shape, generator=rng).to(device)
    return (pipe.scheduler.add_noise(latents, noise, times), times, text), noise


def measure(arms, rounds, device):
    "Median seconds per step of each arm; the arms take turns"
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds = {name: [] for name in arms}
    for r in range(rounds + 2):
        for name, step in arms.items():
            wait()
            start = clock()
            step(r)
            wait()
            if r >= 2: seconds[name].append(clock() - start)
    return {name: median(s) for name, s in seconds.items()}


def ways(pipe, images, prompts, config):
    "What is compared: by name, a function of the number of the step"
    encoded = encode_once(pipe, images, prompts, config)
    one_pass = replace(config, batch=config.batch * config.accumulation, accumulation=1)
    optimizer = torch.optim.AdamW([p for p in pipe.unet.parameters() if p.requires_grad], config.lr)

    def step(examples, c):
        optimizer.zero_grad()
        accumulate(pipe.unet, *examples, c)
        optimizer.step()

    arms = dict(encoding=lambda s: step(draw_encoding(pipe, images, prompts, config, 0, s), config),
                cached=lambda s: step(noised_batch(encoded, pipe.scheduler, config, 0, s), config))
    if one_pass != config:
        arms["cached_one_pass"] = lambda s: step(noised_batch(encoded, pipe.scheduler, one_pass, 0, s), one_pass)
    return arms


def setting(pipe, images, prompts, config, rounds):
    "One row of the record"
    s = measure(ways(pipe, images, prompts, config), rounds, pipe.unet.device.type)
    ratios = {f"{k}_over_encoding": round(s["encoding"] / v, 2) for k, v in s.items() if k != "encoding"}
    return dict(batch=config.batch, accumulation=config.accumulation, precision=config.precision,
                milliseconds={k: round(1e3 * v, 1) for k, v in s.items()}, **ratios)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="", help="pipeline folder or hub id; the mini architecture if empty")
    parser.add_argument("--size", type=int, default=64, help="pixels per side")
    parser.add_argument("--rounds", type=int, default=12, help="measured steps of each arm")
    parser.add_argument("--sd14", action="store_true", help="the size of Stable Diffusion 1.4 too, a sixth of the rounds")
    parser.add_argument("--out", default=str(repo_root() / "results" / "benchmarks" / "lora.json"))
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prompts = [f"a microscope image of class {i % 12}" for i in range(120)]
    source = lambda: load_pipeline(args.source) if args.source else build_pipeline(prompts)
    sizes = [(args.source or "mini", source, args.size, [(1, 4), (4, 1), (16, 1)], args.rounds)]
    if args.sd14: sizes.append(("sd14, random weights", stable_diffusion, 512, [(1, 1)], max(1, args.rounds // 6)))
    record = dict(what="milliseconds per LoRA step: encoding in every step against cached", threads=torch.get_num_threads(),
                  clock="wall" if device == "cuda" else "CPU", rows=[], environment=environment())
    for name, build, size, batches, rounds in sizes:
        pipe, n = build().to(device), 120 if size < 512 else 4
        images = np.random.default_rng(0).integers(0, 255, (n, size, size, 3), np.uint8)
        for part in (pipe.unet, pipe.vae, pipe.text_encoder): part.requires_grad_(False)
        add_lora(pipe.unet, Lora(), 0)
        for batch, accumulation in batches:
            config = Lora(batch=batch, accumulation=accumulation, precision="bf16" if device == "cuda" else "fp32")
            row = setting(pipe, images, prompts[:n], config, rounds)
            record["rows"].append(dict(source=name, size=size, rounds=rounds) | row)
            print(json.dumps(record["rows"][-1]), flush=True)
            write_json(args.out, record)


if __name__ == "__main__":
    main()
