"""Guidance in batches against one image at a time, and its peak memory with and without checkpointing.

    nice -n 10 python benchmarks/guidance.py            # writes results/benchmarks/guidance.json

The arms make the same images with the same settings in one process and take turns. On a CPU, images per
minute are of CPU seconds, so that other processes count little. Memory is measured in a process of its own
per arm, above what the loaded networks need: peak resident memory, or torch's peak allocation on a GPU. `gpu.py`
measures both at the size of Stable Diffusion 1.4.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from statistics import median

import torch

from logex_nb.classify.backbones import build_backbone
from logex_nb.core import environment, repo_root, write_json
from logex_nb.generate.guidance import Guidance, guide, make_starts
from logex_nb.generate.pipeline import build_pipeline, ddim_scheduler, load_pipeline, stable_diffusion, tiny

PROMPTS = {f"class {i}": f"a microscope image of class {i}" for i in range(4)}
IDS = {name: i for i, name in enumerate(PROMPTS)}
# Three evaluations per image, two of them with a backward pass that counts; nothing stops early
EVEN = Guidance(num_inference_steps=10, guidance_steps=2, stop=1., classifier_size=0, checkpointing=False)


def networks(size, source, device):
    "Generator and classifier, frozen"
    if size == "mini": pipe, net = load_pipeline(source) if source else build_pipeline(list(PROMPTS.values())), build_backbone("18", 16)
    else:
        with torch.device(device): # random weights are drawn where they stay
            pipe, net = ((stable_diffusion(), build_backbone("50", 16)) if size == "sd14"
                         else (tiny(list(PROMPTS.values()), image_size=64), build_backbone("tiny", 16)))
        pipe.scheduler = ddim_scheduler() # its tables stay with the CPU
    for part in (pipe.unet, pipe.vae, pipe.text_encoder, net): part.eval().requires_grad_(False).to(device)
    return pipe, net


def make(pipe, net, config):
    "All images of one arm; seconds"
    cuda = pipe.unet.device.type == "cuda"
    clock, wait = (time.perf_counter, torch.cuda.synchronize) if cuda else (time.process_time, lambda: None)
    wait()
    began = clock()
    n = sum(1 for _ in guide(pipe, net, make_starts(PROMPTS, IDS, config), config))
    wait()
    return n, clock() - began


def speed(source, device, batches, images, rounds):
    "Images per minute of each batch size"
    pipe, net = networks("mini", source, device)
    config = replace(EVEN, per_class=images // len(PROMPTS))
    for b in batches: make(pipe, net, replace(config, batch=b, per_class=1, guidance_steps=1))
    rates = {b: [] for b in batches}
    for _ in range(rounds):
        for b in batches:
            n, seconds = make(pipe, net, replace(config, batch=b))
            rates[b].append(60 * n / seconds)
            print(f"batch {b}: {rates[b][-1]:.1f} images/min", flush=True)
    rates = {b: median(r) for b, r in rates.items()}
    return dict(settings="10 DDIM steps, 2 updates, fp32, no early stop", images=images, rounds=rounds,
                images_per_minute={b: round(r, 1) for b, r in rates.items()},
                ratio_over_one_at_a_time={b: round(r / rates[1], 2) for b, r in rates.items() if b > 1})


def peak(device):
    "GiB"
    if device == "cuda": return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def memory_here(args):
    "Peak of one arm above the loaded networks, in this process"
    pipe, net = networks("mini", args.source, args.device)
    config = replace(EVEN, num_inference_steps=args.steps, guidance_steps=1, batch=args.batch, per_class=1,
                     checkpointing=args.checkpointing, loss_steps=min(3, args.steps))
    before = peak(args.device)
    starts = make_starts(PROMPTS, IDS, replace(config, per_class=-(-args.batch // 4)))[:args.batch]
    for _ in guide(pipe, net, starts, config): pass
    return dict(networks_gib=round(before, 2), guidance_gib=round(peak(args.device) - before, 2))


def memory(args, batch, steps):
    "Both arms, each in a process of its own"
    found = dict(size="mini", batch=batch, steps=steps)
    for name, flag in dict(kept=[], checkpointed=["--checkpointing"]).items():
        command = [sys.executable, __file__, "--memory", "--batch", str(batch), "--steps", str(steps),
                   "--source", args.source, "--device", args.device, *flag]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[name] = json.loads(out.splitlines()[-1])
    found["ratio"] = round(found["kept"]["guidance_gib"] / found["checkpointed"]["guidance_gib"], 2)
    print(json.dumps(found), flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="", help="pipeline folder or hub id; the mini architecture if empty")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16], help="slots; 1 comes first")
    parser.add_argument("--images", type=int, default=16, help="images per arm and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=str(repo_root() / "results" / "benchmarks" / "guidance.json"))
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=8, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=20, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory: return print(json.dumps(memory_here(args)))
    record = dict(what="guidance: batched against one at a time; peak memory kept against checkpointed",
                  source=args.source or "mini architecture, random weights", device=args.device,
                  clock="wall" if args.device == "cuda" else "CPU", threads=torch.get_num_threads(),
                  load=[round(x, 1) for x in os.getloadavg()])
    record["memory"] = [memory(args, 8, steps) for steps in (10, 20)]
    record["speed"] = speed(args.source, args.device, args.batches, args.images, args.rounds)
    write_json(args.out, record | dict(environment=environment()))
    print(json.dumps(record["speed"], indent=1))


if __name__ == "__main__":
    main()
