"""Guidance here against the published procedure written out plainly, and against its cheap rivals.

    python benchmarks/published.py     # writes results/benchmarks/published.json

The plain arm is what the published code does, in 32 bits and one image at a time: the chain of diffusers' scheduler,
every step and every decoding computed again on the way back, one more decoding to look at, torch's Adam. It ends an
image at the stop rule, as that code does; `plain, no stop` spends all updates on every image, as DiG-IN does.
All arms guide the same start latents with the same classifier and settings, in one process, and take turns. Ratios
are of seconds within a round. On a CPU, seconds are CPU seconds, so that other processes count little. Memory is
measured in a process of its own per arm, above what the loaded networks need, as in `guidance.py`. `gpu.py` compares
both at the size of Stable Diffusion 1.4.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from statistics import mean, median

import numpy as np
import torch
from diffusers import DDIMScheduler
from guidance import peak
from torch.utils.checkpoint import checkpoint

from logex_nb.classify.backbones import build_backbone, load_classifier
from logex_nb.classify.training import Training, train
from logex_nb.core import environment, repo_root, write_json
from logex_nb.data.tiles import load_tiles
from logex_nb.generate.batching import frozen
from logex_nb.generate.guidance import Guidance, guide, make_starts, resize
from logex_nb.generate.lora import load_lora
from logex_nb.generate.pipeline import decode_latents, encode_prompts, load_pipeline, tiny
from logex_nb.phantom.histology import tile
from logex_nb.run.study import Study

STUDY = Study("logex", "mini", "phantom") # Its networks are used if it was run


def plain(pipe, classifier, start, config, stop=True):
    "One image as the published code makes it: confidence of every iterate"
    device, steps, keep = pipe.unet.device, config.num_inference_steps, config.loss_steps
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    again = lambda f, *args: checkpoint(f, *args, use_reentrant=False, preserve_rng_state=False)
    cond, uncond = encode_prompts(pipe, [start.prompt]), encode_prompts(pipe, [""])
    z = start.latents(pipe)[None].to(device).requires_grad_()
    radius = z.detach().norm()
    d_c, d_u = (torch.zeros(steps, *cond.shape, device=device, requires_grad=True) for _ in range(2))
    adam = torch.optim.Adam([dict(params=[d_c, d_u], lr=config.guidance_lr), dict(params=[z], lr=config.latent_lr)])

    def noise(w, t, u, c):
        noise_u, noise_c = pipe.unet(torch.cat([w, w]), t, torch.cat([u, c])).sample.chunk(2)
        return noise_u + config.guidance_scale * (noise_c - noise_u)

    def classify(images): return classifier(resize(images, config.classifier_size)).softmax(-1)[0, start.target]

    path = []
    while True:
        w, seen = z, []
        for i, t in enumerate(scheduler.timesteps):
            step = scheduler.step(again(noise, w, t, uncond + d_u[i], cond + d_c[i]), t, w)
            w, seen = step.prev_sample, [*seen, step.pred_original_sample][-keep:]
        with torch.no_grad():
            picture = decode_latents(pipe, seen[-1])
            path.append(classify(picture).item())
        if len(path) > config.guidance_steps: return path
        p = [again(lambda x: classify(decode_latents(pipe, x)), x) for x in seen]
        loss = -sum(k * x for k, x in enumerate(p, 1)) / sum(range(1, keep + 1))
        if stop and loss.item() < -config.stop: return path
        adam.zero_grad(), loss.backward(), adam.step()
        with torch.no_grad(): z *= radius / z.norm()


def plainly(pipe, net, starts, config, stop=True):
    "All images, one after the other"
    with frozen(pipe.unet, pipe.vae, net): return {s: plain(pipe, net, s, config, stop) for s in starts}


def ours(pipe, net, starts, config):
    "All images by `guide`"
    return {g.start: g.confidence for g in guide(pipe, net, starts, config)}


def setup(args):
    "Generator, classifier, prompts, class ids, settings, and what they are in words"
    classes = {f"class {i}": f"a microscope image of class {i}" for i in range(4)}
    ids = {name: i for i, name in enumerate(classes)}
    if args.size == "tiny":
        pipe, net = tiny(list(classes.values())), build_backbone("small", 16)
        config = Guidance(guidance_steps=args.updates, classifier_size=0, stop=1., num_inference_steps=args.steps)
        words = "random weights, tiny"
    elif (STUDY.runs / "classifier/auxiliary/seed0/record.json").exists():
        config, tiles = STUDY.settings("guidance"), load_tiles(STUDY.runs / "data")
        ids = {tiles.classes[i]: i for i in tiles.tail_ids}
        classes = {name: f"a microscope image of {name}" for name in ids}
        pipe, net = load_pipeline("mini"), load_classifier(STUDY.runs / "classifier/auxiliary/seed0")
        load_lora(pipe, STUDY.runs / "lora/tail/set0").fuse_lora()
        pipe.unload_lora_weights()
        words = "the shipped pipeline with the LoRA and the auxiliary classifier of runs/mini/phantom"
    else:
        pipe, net, classes, ids = load_pipeline("mini"), *small_classifier()
        config = Guidance(num_inference_steps=10, guidance_steps=5, guidance_lr=4e-2, latent_lr=2e-2, stop=.8,
                          classifier_size=0)
        words = "the shipped pipeline without LoRA, and a small classifier trained here on four phantom classes"
    for part in (pipe.unet, pipe.vae, pipe.text_encoder, net): part.eval().requires_grad_(False).to(args.device)
    return pipe, net, classes, ids, replace(config, precision="fp32", checkpointing=False, batch=args.batch), words


def small_classifier():
    "Four phantom classes, learned in seconds; prompts in words that the shipped pipeline knows"
    prompts = {"chondral tissue": "a pitted glassy ground", "dermis": "wavy fibres", "subcutis": "large bubbles",
               "skeletal muscle": "striped bands"}
    names = list(prompts)

    def draw(cases):
        images = np.stack([tile(name, case, 0)[0] for name in names for case in cases])
        return images, np.repeat(np.arange(len(names)), len(cases))

    recipe = Training(backbone="small", epochs=8, batch=32, lr=1e-3, bn_mode="clean", select="balanced")
    net = train(*draw(range(80)), *draw(range(80, 100)), names, [0], recipe, seed=0, folder=tempfile.mkdtemp())
    return net, {k: f"a microscope image of {v}" for k, v in prompts.items()}, {k: i for i, k in enumerate(names)}


def arms(config, device):
    "What is compared: by name, how to make all images"
    half = config.num_inference_steps // 2
    checkpointed = device == "cuda" # A CPU has the memory
    batched = replace(config, checkpointing=checkpointed)
    fast = replace(batched, precision="bf16")
    by = lambda c: lambda pipe, net, starts: ours(pipe, net, starts, replace(c, batch=min(c.batch, len(starts))))
    return {
        "plain": lambda pipe, net, starts: plainly(pipe, net, starts, config),
        "plain, no stop": lambda pipe, net, starts: plainly(pipe, net, starts, config, stop=False),
        "here, one at a time": by(replace(batched, batch=1)),
        "here, batched": by(batched),
        "here, batched, bf16": by(fast),
        "rival: truncated gradient": by(replace(fast, gradient_steps=config.loss_steps)),
        "rival: half the steps": by(replace(fast, num_inference_steps=max(half, config.loss_steps))),
        "rival: few updates": by(replace(fast, guidance_steps=max(config.guidance_steps // 2, 1)))}


def clocked(device, f, *args):
    "Result and seconds"
    clock, wait = (time.perf_counter, torch.cuda.synchronize) if device == "cuda" else (time.process_time, lambda: None)
    wait()
    began = clock()
    found = f(*args)
    wait()
    return found, clock() - began


def speed(args, pipe, net, classes, ids, config):
    "Every arm on every round's images"
    make, rounds = arms(config, args.device), []
    chosen = [name for name in make if not args.arms or name in args.arms]
    per_round = -(-args.images // len(classes))
    starts = make_starts(classes, ids, replace(config, per_class=per_round * args.rounds))
    batches = [[s for s in starts if s.index // per_round == r][:args.images] for r in range(args.rounds)]
    for name in chosen: make[name](pipe, net, batches[0][:1]) # warm-up
    for r, batch in enumerate(batches):
        found = {}
        for name in chosen if r % 2 == 0 else chosen[::-1]:
            few = batch[:args.few] if name == "plain, no stop" and args.few else batch
            paths, seconds = clocked(args.device, make[name], pipe, net, few)
            found[name] = dict(paths=paths, seconds=seconds / len(few))
            print(f"round {r}, {name}: {60 * len(few) / seconds:.1f} images/min", flush=True)
        rounds.append(found)
    return {name: summary(name, rounds, config) for name in chosen}, rounds


def occupancy(evaluations, slots):
    "Share of rows that hold an image: slots are empty once no image waits, which a long run hardly notices"
    waiting, rows, turns = list(evaluations), [0] * slots, 0
    while waiting or any(rows):
        rows = [row or (waiting.pop(0) if waiting else 0) for row in rows]
        rows, turns = [max(row - 1, 0) for row in rows], turns + 1
    return sum(evaluations) / (turns * slots)


def summary(name, rounds, config):
    "Speed and quality of one arm over all rounds"
    paths = [path for found in rounds for path in found[name]["paths"].values()]
    best = [max(path) for path in paths]
    shared = [s for found in rounds for s in found[name]["paths"]]
    rate = median(60 / found[name]["seconds"] for found in rounds)
    out = dict(images=len(shared), images_per_minute=round(rate, 2), updates=round(mean(len(p) - 1 for p in paths), 2),
               confidence_before=round(mean(p[0] for p in paths), 3), confidence=round(mean(best), 3),
               share_at_stop=round(mean(p >= config.stop for p in best), 3))
    if "plain" not in name and "one at" not in name:
        lengths = [[len(p) for p in found[name]["paths"].values()] for found in rounds]
        filled = mean(occupancy(n, min(config.batch, len(n))) for n in lengths)
        out |= dict(share_of_slots_filled=round(filled, 3))
    ratios = {kind: [found[kind]["seconds"] / found[name]["seconds"] for found in rounds]
              for kind in ("plain", "plain, no stop") if kind in rounds[0] and kind != name}
    for kind, r in ratios.items():
        out[f"ratio over {kind}"] = dict(median=round(median(r), 2), rounds=[round(x, 2) for x in r])
    return out


def agreement(rounds):
    "How far the plain algorithm and the one here are apart, image by image"
    pairs = [(found["plain"]["paths"][s], path) for found in rounds
             for s, path in found["here, batched"]["paths"].items()]
    return dict(images=len(pairs), same_number_of_updates=sum(len(a) == len(b) for a, b in pairs),
                largest_difference_of_best_confidence=round(max(abs(max(a) - max(b)) for a, b in pairs), 5))


def memory_here(args):
    "Peak of one arm above the loaded networks, in this process: one update"
    pipe, net, classes, ids, config, _ = setup(args)
    config = replace(config, guidance_steps=1, stop=1., per_class=-(-args.batch // len(classes)))
    before = peak(args.device)
    make = arms(config, args.device)[args.memory]
    make(pipe, net, make_starts(classes, ids, config)[:1 if "batched" not in args.memory else args.batch])
    return dict(gib=peak(args.device) - before)


def memory(args):
    "Of the main arms, each in a process of its own"
    found = {}
    arms_ = {"plain": 1, "here, one at a time": 1, "here, batched": args.batch, "here, batched, bf16": args.batch}
    for name, n in arms_.items():
        command = [sys.executable, __file__, "--memory", name]
        for key in ("size", "device", "batch", "steps", "updates"): command += [f"--{key}", str(getattr(args, key))]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        gib = json.loads(out.splitlines()[-1])["gib"]
        found[name] = dict(images_at_a_time=n, gib=round(gib, 3), gib_per_image=round(gib / n, 3))
        print(name, found[name], flush=True)
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["mini", "tiny"], default="mini",
                        help="tiny only shows that the script runs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=16, help="images per arm and round")
    parser.add_argument("--few", type=int, default=4,
                        help="images per round for `plain, no stop`, whose cost is the same for each; 0 takes all")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="images at a time")
    parser.add_argument("--steps", type=int, default=20, help="DDIM steps, if tiny")
    parser.add_argument("--updates", type=int, default=2, help="updates, if tiny")
    parser.add_argument("--arms", nargs="+", help="only these")
    parser.add_argument("--out", default=str(repo_root() / "results" / "benchmarks" / "published.json"))
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.memory: return print(json.dumps(memory_here(args)))
    pipe, net, classes, ids, config, words = setup(args)
    record = dict(what="guidance: this package against the published procedure written out plainly, and cheap rivals",
                  size=args.size, source=words, device=args.device, clock="wall" if args.device == "cuda" else "CPU",
                  threads=torch.get_num_threads(), load=[round(x, 1) for x in os.getloadavg()],
                  settings={k: getattr(config, k) for k in ("num_inference_steps", "guidance_steps", "guidance_lr", "latent_lr",
                                                            "loss_steps", "stop", "classifier_size", "batch")})
    record["memory"] = memory(args)
    record["arms"], rounds = speed(args, pipe, net, classes, ids, config)
    if {"plain", "here, batched"} <= record["arms"].keys(): record["agreement"] = agreement(rounds)
    write_json(args.out, record | dict(environment=environment()))
    print(json.dumps({k: record[k] for k in ("arms", "memory", "agreement") if k in record}, indent=1))
    return record


if __name__ == "__main__":
    main()
