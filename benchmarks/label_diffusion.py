"""Drawing labels with the image encoded once against the released way, fewer steps, two widths, and cached training.

    nice -n 10 python benchmarks/label_diffusion.py                 # writes results/benchmarks/label_diffusion.json
    nice -n 10 python benchmarks/label_diffusion.py --device cuda   # writes results/benchmarks/label_diffusion_gpu.json

Sampling: the released code runs its image network, here a ResNet-18 at 224 px, again at each of the 250 steps. That
chain is written out plainly. Two images go through all of it and through `sample_labels` with the same noise, and the
labels are compared. For the time, two of its steps, which all cost the same, take turns with the ways of
`sample_labels` and count 125 times. All weights are random: they change no time. Widths: one step of the denoiser and
one of its training, whose memory is measured in a process of its own. Training: features and guesses from memory,
guesses computed anew, and both computed anew, by the frozen EfficientNet-Lite0 at 128 px. On a CPU, seconds are CPU
seconds of one thread.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median

import numpy as np
import torch

from logex_nb.adpm.denoiser import Denoiser
from logex_nb.adpm.diffusion import LabelSampling, diffusion_loss, label_noise, sample_labels
from logex_nb.adpm.noise import LabelScheduler
from logex_nb.adpm.priors import PriorNet
from logex_nb.adpm.views import FrozenViews, TrunkViews
from logex_nb.classify.backbones import build_backbone
from logex_nb.core import environment, peak_memory, repo_root, write_json

CLASSES, FEATURES, STEPS = 7, 512, 250 # HAM10000's classes, ResNet-18's features, the released chain
NETWORKS = { # Width, time, image, width of a token, heads
    f"{width}, {time_}, {image}": (width, time_, image, token, 8)
    for width, token in ((512, 128), (6144, 512)) for time_, image in (("table", "product"), ("film", "attention"))}
RELEASED = LabelSampling()
WAYS = {"image once, 250 steps": RELEASED, "image once, 10 steps, 8 samples": LabelSampling("strided", 10, 8),
        "image once, 10 steps": LabelSampling("strided", 10), "image once, 10 steps of ddim": LabelSampling("ddim", 10)}


def clocked(device, f):
    "Result and seconds"
    clock, wait = (time.perf_counter, torch.cuda.synchronize) if device == "cuda" else (time.process_time, lambda: None)
    wait()
    began = clock()
    found = f()
    wait()
    return found, clock() - began


def told(values, digits=2):
    "Median and all rounds"
    return dict(median=round(median(values), digits), rounds=[round(v, digits) for v in values])


def denoiser(name, device):
    "Denoiser with random weights"
    width, time_, image, token, heads = NETWORKS[name]
    torch.manual_seed(0)
    return Denoiser(CLASSES, FEATURES, width, time_, image, token, heads).to(device)


def released(trunk, net, images, prior, level, noise):
    "The chain as released: the image network at every step. Labels after each step"
    scheduler = LabelScheduler()
    scheduler.set_timesteps(STEPS)
    y = scheduler.start(prior[:, None], level[:, None], noise[:, :, 0])
    for i, t in enumerate(scheduler.timesteps.tolist(), 1):
        found = net(y, t, prior, net.encode(trunk.maps(images).permute(0, 2, 3, 1)))
        y, _ = scheduler.step(found, t, y, prior[:, None], level[:, None], noise[:, :, i] if i < STEPS else None)
        yield y


def sampling(args, name):
    "One denoiser: seconds per image of every way, and by how much it is faster"
    trunk, net = build_backbone("18", CLASSES).eval().to(args.device), denoiser(name, args.device).eval()
    g, n, names = torch.Generator().manual_seed(0), args.images, [f"image {i}" for i in range(args.images)]
    images = torch.rand(n, 3, 224, 224, generator=g).to(args.device)
    prior = torch.rand(n, CLASSES, generator=g).softmax(1).to(args.device)
    level, noise = torch.ones(n), label_noise(0, names, 1, STEPS, CLASSES).to(prior)
    encode = lambda k=n: trunk.maps(images[:k]).permute(0, 2, 3, 1)

    def draw(maps, how):
        k = len(maps)
        return sample_labels(net, LabelScheduler(), maps, prior[:k], level[:k], how, names[:k])

    *_, plain = released(trunk, net, images[:2], prior[:2], level[:2], noise[:2])
    difference = (plain - draw(encode(2), RELEASED)).abs().max().item()

    known, chain = encode(), released(trunk, net, images, prior, level, noise)
    every, once = "image at every step, 250 steps", "image once, 250 steps"
    bare = lambda way: f"{way}, without its image"
    arms = {every: lambda: [next(chain) for _ in range(2)]}
    arms |= {way: lambda how=how: draw(encode(), how) for way, how in WAYS.items()}
    arms |= {bare(way): lambda how=how: draw(known, how) for way, how in WAYS.items()}
    for f in arms.values(): f() # warm-up
    turns = [{way: clocked(args.device, f)[1] / n for way, f in arms.items()} for _ in range(args.rounds)]
    for turn in turns: turn[every] *= STEPS / 2
    over = lambda slow, fast: told([turn[slow] / turn[fast] for turn in turns], 1)
    return dict(
        largest_difference_of_labels=difference,
        seconds_per_image={way: told([turn[way] for turn in turns], 5) for way in arms},
        ratio_over_the_released_way={way: over(every, way) for way in WAYS},
        ratio_of_ten_steps_over_250={way: over(once, way) for way in WAYS if way != once},
        the_same_without_the_image={way: over(bare(once), bare(way)) for way in WAYS if way != once})


def training_step(net, device, n, generator):
    "A function that trains the denoiser for one step on `n` random images, guesses and labels"
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-4, fused=True)
    maps = torch.rand(n, 7, 7, FEATURES, generator=generator).to(device)
    priors = torch.rand(1, n, CLASSES, generator=generator).softmax(2).to(device)
    labels, one = torch.arange(n, device=device) % CLASSES, torch.ones(n, device=device)

    def step():
        loss = diffusion_loss(net, LabelScheduler(), maps, labels, priors, one, one, generator)
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    return step


def widths(args):
    "Time and parameters of each network, and ratios over the narrow one of its kind"
    n, g = 32, torch.Generator().manual_seed(0)
    nets = {name: denoiser(name, args.device) for name in NETWORKS}
    weights = lambda net: sum(p.numel() for p in net.parameters())
    rows = {name: dict(millions=round(weights(net) / 1e6, 2)) for name, net in nets.items()}
    y, maps = torch.randn(n, 1, CLASSES, generator=g).to(args.device), torch.rand(n, 7, 7, FEATURES).to(args.device)
    prior = torch.rand(n, CLASSES, generator=g).softmax(1).to(args.device)

    def look(net): # A step of sampling, three times
        with torch.inference_mode():
            image = net.eval().encode(maps)
            return clocked(args.device, lambda: [net(y, 100, prior, image) for _ in range(3)])[1] / 3

    def learn(net):
        step = training_step(net, args.device, n, g)
        step()
        return clocked(args.device, lambda: [step() for _ in range(2)])[1] / 2

    for kind, measure in dict(sampling_step=look, training_step=learn).items():
        for net in nets.values(): measure(net) # warm-up
        turns = [{name: measure(net) for name, net in nets.items()} for _ in range(args.rounds)]
        for name, row in rows.items():
            row[f"{kind}_seconds"] = told([t[name] for t in turns], 5)
            small = "512" + name[name.index(","):]
            if name != small: row[f"{kind}_ratio_over_512"] = told([t[name] / t[small] for t in turns], 1)
    return rows


def memory(args):
    "Of every network, each in a process of its own; before this one grows, whose peak they would inherit"
    found = {}
    for name in NETWORKS:
        command = [sys.executable, __file__, "--device", args.device, "--memory", name]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[name] = json.loads(out.splitlines()[-1])
    return found


def memory_here(args):
    "GiB that a training step of one network takes in this process: weights, gradients, optimizer, activations"
    before, net = peak_memory(), denoiser(args.memory, args.device)
    training_step(net, args.device, 32, torch.Generator().manual_seed(0))()
    return dict(training_gib=round(peak_memory() - (0 if args.device == "cuda" else before), 3))


def throughput(args):
    "Training images per second of a denoiser of width 256: what comes from memory, and what is computed in each step"
    n, batch, g = 256, 64, torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)
    drawn = TrunkViews(images, "lite0", size=128, side=2, local=False, device=args.device).eval()
    drawn.local, features = drawn.trunk, lambda *shape: rng.normal(size=(n, 1, *shape, drawn.width)).astype("float16")
    frozen = FrozenViews(features(4, 4), features(9), args.device)
    guide = PriorNet(drawn.width, CLASSES, crops=4, side=2, hidden=256).eval().to(args.device)
    net = Denoiser(CLASSES, drawn.width, 256, "film", "attention", 64, 4).to(args.device).train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    known = torch.rand(1, n, CLASSES, generator=g).softmax(2).to(args.device)
    one = torch.ones(batch, device=args.device)

    def step(views, guesses):
        ids = torch.randperm(n, generator=g)[:batch]
        with torch.no_grad():
            look = views.look(ids)
            prior = guide(look)[:1].softmax(2) if guesses else known[:, ids.to(args.device)]
        labels = ids.to(args.device) % CLASSES
        loss = diffusion_loss(net, LabelScheduler(), look.maps, labels, prior, one, one, g)
        optimizer.zero_grad(), loss.backward(), optimizer.step()

    arms = {"features and guesses from memory": (frozen, False, 20), "guesses computed": (frozen, True, 20),
            "features and guesses computed": (drawn, True, 1)}

    def run(views, guesses, times):
        return clocked(args.device, lambda: [step(views, guesses) for _ in range(times)])[1] / times

    for how in arms.values(): run(*how[:2], 1) # warm-up
    turns = [{arm: run(*how) for arm, how in arms.items()} for _ in range(args.rounds)]
    first, *others = arms
    return dict(images_per_second={arm: told([batch / t[arm] for t in turns], 0) for arm in arms},
                ratio_from_memory_over={arm: told([t[arm] / t[first] for t in turns], 1) for arm in others})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--images", type=int, default=16, help="images at a time in sampling")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way")
    parser.add_argument("--out", help="file to write, in results/benchmarks if not given")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "cpu": torch.set_num_threads(1)
    if args.memory: return print(json.dumps(memory_here(args)))
    record = dict(what="label diffusion: ways of drawing labels, widths, and training from memory", device=args.device,
                  clock="wall" if args.device == "cuda" else "CPU", threads=torch.get_num_threads(), images=args.images,
                  load=[round(x, 1) for x in os.getloadavg()], memory=memory(args), sampling={},
                  accuracy="what ten steps and a narrow network cost in accuracy: results/benchmarks/label_quality.json")
    with torch.inference_mode():
        for name in list(NETWORKS)[:2]:
            record["sampling"][name] = sampling(args, name)
            print(name, json.dumps(record["sampling"][name]), flush=True)
    record |= dict(widths=widths(args), training=throughput(args))
    name = "label_diffusion_gpu" if args.device == "cuda" else "label_diffusion"
    path = args.out or repo_root() / "results" / "benchmarks" / f"{name}.json"
    write_json(path, record | dict(environment=environment()))
    print(json.dumps({k: record[k] for k in ("memory", "widths", "training")}, indent=1))


if __name__ == "__main__":
    main()
