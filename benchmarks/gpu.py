"""What the package does with a GPU: guidance, one step of the UNet, LoRA, the classifier, and the chain of the profile `mini`.

    python benchmarks/gpu.py                              # writes results/benchmarks/gpu.json, within eight minutes
    python benchmarks/gpu.py --parts a,b                  # only these
    python benchmarks/gpu.py --tiny                       # the same code on small networks: minutes of a CPU, and no record

The parts:

a  Guidance at 512 pixels: the published procedure, written out in `published.py`, in 32 bits and one image at a time;
   and the package in 32 bits, which is the default, and in 16, one at a time and in a batch. Images per hour; operations
   per second, counted on shapes without those computed twice, and their share of what one large bf16 product reaches in
   the same process; peak memory per image above the loaded networks, over batch sizes.
b  One step of the UNet with its gradient, as guidance takes it: attention fused or written out, channels last or
   first, TF32 on or off, compiled or not.
c  LoRA with what is encoded in memory, and encoded in every step, as in `lora.py`.
d  ResNet-50 at 395 pixels: training in 32 and 16 bits, and inference.
e  The chain on the phantom, stage by stage: the shipped base, a LoRA, a guide, guided images, a classifier with them.

No network is needed. Weights are random, in the shapes of Stable Diffusion 1.4 and ResNet-50, and change no time; nothing
stops early, as nothing is learned. Ways that are compared take turns, and ratios are of seconds within a round: how many
times as fast the first one is. On a GPU seconds are of the wall, between synchronisations; on a CPU they are CPU
seconds. 32 bits are as torch has them by default, which a says, but in b, where they are 32 everywhere. Each part is a
process of its own. What it has found so far is kept if it fails or its share of the minutes ends, and the file is
written after each. Rounds and batch sizes for which no time was left are named.

As long as results/benchmarks/gpu.json is not there, no GPU has run this.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, TemporaryFile
from types import SimpleNamespace

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from guidance import IDS, PROMPTS, networks, peak
from lora import ways as lora_ways
from published import clocked, ours, plainly
from torch.nn import functional as F

from logex_nb.classify.batches import hold
from logex_nb.classify.frozen import seen_by
from logex_nb.classify.outputs import predict
from logex_nb.classify.training import Training, new_classifier, train, train_epoch
from logex_nb.core import environment, repo_root, settled, write_json
from logex_nb.data.protocols import make_split
from logex_nb.data.tiles import pack
from logex_nb.detect.tail import tail_summary
from logex_nb.generate.guidance import Guidance, make_starts
from logex_nb.generate.lora import Lora, add_lora, load_lora, train_lora
from logex_nb.generate.manifest import generate_folder
from logex_nb.generate.pipeline import image_side, load_pipeline
from logex_nb.generate.sampler import predict_noise
from logex_nb.generate.training_images import training_set
from logex_nb.run.price import count_operations
from logex_nb.run.study import Study, noun


@dataclass(frozen=True)
class Sizes:
    "How large and how often; the defaults are Stable Diffusion 1.4, ResNet-50 and LoGex's images"
    device: str = "cuda"
    networks: str = "sd14" # As `guidance.networks` has them
    backbone: str = "50"
    steps: int = 20 # Of DDIM
    updates: int = 2 # Of guidance
    seen: int = 256 # Side at which the guide sees an image
    batch: int = 8 # Images at a time in guidance
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32) # Whose memory is measured
    step_batch: int = 4 # Images in the step of the UNet
    rounds: int = 5
    lora_images: int = 8
    side: int = 395 # Of the classifier's images
    images: int = 1024 # For the classifier
    matrix: int = 8192 # Side of the product that stands for what the device can do
    compiler: str = "inductor"
    profile: str = "mini" # Of the chain
    tests: int = 20 # Its test images per class
    per_class: int = 10 # Its guided images per tail class


TINY = Sizes("cpu", "tiny", "tiny", steps=3, updates=1, seen=0, batch=2, batches=(1, 2), step_batch=1, rounds=1, lora_images=2,
             side=64, images=16, matrix=512, compiler="eager", profile="smoke", tests=3, per_class=1)


def reason(error):
    "An exception in a line"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def take_turns(ways, rounds, device, until, warm=None):
    "Seconds of each way in each round, and what is missing; a way gets ready for a round and returns what is timed"
    failed, seconds, cost = {}, [], 0
    for name, ready in (warm or ways).items():
        try: clocked(device, ready(0))
        except Exception as error: failed[name] = reason(error)
    names = [name for name in ways if name not in failed]
    while names and len(seconds) < rounds and (not seconds or time.time() + cost < until):
        began = time.time()
        seconds.append({name: clocked(device, ways[name](len(seconds)))[1] for name in names[::-1 if len(seconds) % 2 else 1]})
        cost = time.time() - began
    return seconds, dict(rounds=len(seconds), rounds_left_out=rounds - len(seconds), failed=failed)


def compared(seconds, pairs):
    "Median and rounds of each ratio, slow way over fast way, where both ran"
    of = {name: [turn[slow] / turn[fast] for turn in seconds] for name, (slow, fast) in pairs.items() if seconds and {slow, fast} <= seconds[0].keys()}
    return {name: dict(median=round(median(r), 3), rounds=[round(x, 3) for x in r]) for name, r in of.items()}


def middle(seconds):
    "Median seconds of each way"
    return {name: median(turn[name] for turn in seconds) for name in seconds[0]} if seconds else {}


def matmul_rate(device, n):
    "bf16 operations per second of one large matrix product, the best of ten"
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / min(clocked(device, torch.matmul, a, b)[1] for _ in range(10))


def above(device, f):
    "Seconds of a call, and GiB of its peak above what was held before; on a CPU above the peak before"
    if device == "cuda": torch.cuda.empty_cache(), torch.cuda.reset_peak_memory_stats()
    before = peak(device)
    _, seconds = clocked(device, f)
    return seconds, peak(device) - before


def guidance(s, until):
    "Part a"
    now = time.time()
    config = Guidance(num_inference_steps=s.steps, guidance_steps=s.updates, classifier_size=s.seen, stop=1.)
    short, once = replace(config, num_inference_steps=config.loss_steps, guidance_steps=1), replace(config, guidance_steps=1)
    cost = count_operations(*networks(s.networks, "", "meta"), s.seen).image(vars(config))
    rate = matmul_rate(s.device, s.matrix)
    yield dict(steps=s.steps, updates=s.updates, tflop_per_image=round(cost / 1e12, 4), bf16_product_tflops=round(rate / 1e12, 3),
               fp32=dict(products_in_tf32=torch.backends.cuda.matmul.allow_tf32, convolutions_in_tf32=torch.backends.cudnn.allow_tf32))
    pipe, net = networks(s.networks, "", s.device)
    starts = make_starts(PROMPTS, IDS, replace(config, per_class=max(*s.batches, s.batch)))

    def images(how, n, precision, c, r): # Other ones in each round
        begin = r * n % (len(starts) - n + 1)
        return partial(how, pipe, net, starts[begin:begin + n], replace(c, batch=n, precision=precision))

    plain, many = "plain, fp32, one at a time", f"here, bf16, {s.batch} at a time"
    arms = {plain: (plainly, 1, "fp32"), "here, fp32, one at a time": (ours, 1, "fp32"),
            "here, bf16, one at a time": (ours, 1, "bf16"), many: (ours, s.batch, "bf16")}
    ways, warm = ({name: partial(images, *arm, c) for name, arm in arms.items()} for c in (config, short))
    seconds, missing = take_turns(ways, s.rounds, s.device, now + .6 * (until - now), warm) # the rest is for memory
    seconds = [{name: x / arms[name][1] for name, x in turn.items()} for turn in seconds]
    each = middle(seconds)
    yield missing | dict(
        images_per_hour={k: round(3600 / v, 1) for k, v in each.items()}, tflops={k: round(cost / v / 1e12, 3) for k, v in each.items()},
        share_of_bf16_product={k: round(cost / v / rate, 4) for k, v in each.items()},
        ratios={f"{k} over plain": v for k, v in compared(seconds, {k: (plain, k) for k in arms if k != plain}).items()})

    rows, took = [], 0
    for n in s.batches:
        if time.time() + 2 * took > until: return (yield dict(batches_left_out=[m for m in s.batches if m >= n]))
        began, call = time.time(), images(ours, n, "bf16", once, 0)
        try: seconds, gib = above(s.device, call)
        except Exception as error: return (yield dict(memory=[*rows, dict(images_at_a_time=n, failed=reason(error))]))
        took = time.time() - began
        rows.append(dict(images_at_a_time=n, gib=round(gib, 3), gib_per_image=round(gib / n, 3), images_per_hour_with_one_update=round(3600 * n / seconds, 1)))
        yield dict(memory=rows)


def unet_step(s, until):
    "Part b"
    unet = networks(s.networks, "", s.device)[0].unet
    leaf = lambda *shape: torch.randn(2 * s.step_batch, *shape, device=s.device, requires_grad=True) # with and without the prompt
    inputs = leaf(unet.config.in_channels, unet.config.sample_size, unet.config.sample_size), leaf(77, unet.config.cross_attention_dim)

    def step(net, precision="bf16"):
        noise = predict_noise(SimpleNamespace(unet=net), inputs[0], 500, inputs[1], precision)
        return torch.autograd.grad(noise.square().mean(), inputs)

    def ready(_, precision="bf16", attention=AttnProcessor2_0, layout=torch.contiguous_format, tf32=False):
        unet.set_attn_processor(attention())
        unet.to(memory_format=layout)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        return partial(step, unet, precision)

    ways = dict(bf16=ready, written_out=partial(ready, attention=AttnProcessor), channels_last=partial(ready, layout=torch.channels_last),
                fp32=partial(ready, precision="fp32"), tf32=partial(ready, precision="fp32", tf32=True))
    seconds, missing = take_turns(ways, s.rounds, s.device, until)
    pairs = {"fused attention over written out": ("written_out", "bf16"), "channels last over first": ("bf16", "channels_last"),
             "TF32 over fp32": ("fp32", "tf32"), "bf16 over fp32": ("fp32", "bf16")}
    yield missing | dict(images=s.step_batch, milliseconds={k: round(1e3 * v, 2) for k, v in middle(seconds).items()}, ratios=compared(seconds, pairs))
    ready(0)
    compiled, began = torch.compile(unet, backend=s.compiler), time.time()
    both = dict(as_it_is=lambda _: partial(step, unet), compiled=lambda _: partial(step, compiled))
    more, missing_too = take_turns(both, s.rounds, s.device, until)
    yield dict(compiler=dict(missing_too, backend=s.compiler, seconds=round(time.time() - began, 1))) | dict(
        ratios=compared(seconds, pairs) | compared(more, {"compiled over as it is": ("as_it_is", "compiled")}))


def lora(s, until):
    "Part c"
    pipe, _ = networks(s.networks, "", s.device)
    config, side = settled(Lora(), s.device), image_side(pipe)
    add_lora(pipe.unet, config, 0)
    images = np.random.default_rng(0).integers(0, 255, (s.lora_images, side, side, 3), np.uint8)
    steps = lora_ways(pipe, images, (list(PROMPTS.values()) * s.lora_images)[:s.lora_images], config)
    seconds, missing = take_turns({name: partial(partial, step) for name, step in steps.items()}, 2 * s.rounds, s.device, until)
    pairs = {f"{name} over encoding": ("encoding", name) for name in steps if name != "encoding"}
    yield missing | dict(batch=config.batch, accumulation=config.accumulation, precision=config.precision,
                         steps_per_second={k: round(1 / v, 3) for k, v in middle(seconds).items()}, ratios=compared(seconds, pairs))


def classifier(s, until):
    "Part d"
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (s.images, s.side, s.side, 3), dtype=np.uint8), rng.integers(0, 16, s.images)
    held, targets = hold(images, s.device), torch.tensor(labels, device=s.device)
    recipe = Training(backbone=s.backbone, batch=min(128, s.images))
    net, optimizer = new_classifier(recipe, 16, 0, s.device)

    def epoch(precision, r):
        return partial(train_epoch, net.train(), optimizer, partial(F.cross_entropy, reduction="none"), held, targets,
                       replace(recipe, precision=precision), torch.Generator().manual_seed(r))

    ways = {f"training, {p}": partial(epoch, p) for p in ("fp32", "bf16")} | {"inference, fp32": lambda _: partial(predict, net, images)}
    seconds, missing = take_turns(ways, s.rounds, s.device, until)
    yield missing | dict(side=s.side, images=s.images, batch=recipe.batch, images_per_second={k: round(s.images / v, 1) for k, v in middle(seconds).items()},
                         ratios=compared(seconds, {"training, bf16 over fp32": ("training, fp32", "training, bf16")}))


def chain(s, until):
    "Part e"
    study, spent = Study("logex", s.profile, "phantom"), {}

    def stage(name, f, *args, **kwargs):
        found, seconds = clocked(s.device, partial(f, *args, **kwargs))
        spent[name] = round(seconds, 2)
        return found

    def taught(arm, drawn, folder): # A classifier, and what it says of the test images
        recipe, images = study.training(arm), training_set(tiles, study.arms[arm].add, drawn)
        net = train(*images, val.images, val.labels, tiles.classes, tiles.tail_ids, recipe, 0, folder / arm, s.device, progress=False, remembered=folder)
        seen = predict(net, seen_by(net, test.images, folder, s.device, progress=False), views=recipe.views)[0]
        return net, tail_summary(seen, test.labels, tiles.tail_ids)

    def adapted(folder): # The base with a LoRA
        prompts = [prompt[name] for name in tail.table.label]
        train_lora(load_pipeline("mini", s.device), tail.images, prompts, study.settings("lora"), 0, folder, progress=False)
        pipe = load_lora(load_pipeline("mini", s.device), folder)
        pipe.fuse_lora(), pipe.unload_lora_weights()
        return pipe

    with TemporaryDirectory() as tmp:
        tmp, data = Path(tmp), study.source.open()
        protocol = study.settings("protocol", pool=0, test=s.tests)
        tiles = stage("data", pack, data, make_split(data, protocol), tmp / "data", protocol.size)
        val, test, tail = (tiles.subset(**part) for part in (dict(split="val"), dict(split="test"), dict(split="train", part="tail")))
        ids = {tiles.classes[i]: i for i in tiles.tail_ids}
        prompt = {name: study.choices.prompt.format(noun=noun(name)) for name in ids}
        yield dict(profile=s.profile, tiles=len(tiles), stage_seconds=spent)
        guide, _ = stage("guide", taught, "auxiliary", {}, tmp)
        yield dict(stage_seconds=spent)
        pipe = stage("lora", adapted, tmp / "lora")
        yield dict(stage_seconds=spent)
        config = replace(study.sampling("logex", 0), per_class=s.per_class)
        made = stage("images", generate_folder, pipe, guide, prompt, ids, config, tmp / "logex", progress=False)
        yield dict(stage_seconds=spent, guided_images=len(made), images_per_hour=round(3600 * len(made) / spent["images"], 1))
        _, report = stage("classifier", taught, "logex", dict(logex=tmp / "logex"), tmp)
        yield dict(stage_seconds=spent, fpr95=report["fpr95_id"])


PARTS = dict(a=(guidance, 4), b=(unet_step, 2.5), c=(lora, 1), d=(classifier, 1), e=(chain, 3)) # and their shares of the time


def child(name, s, until):
    "One part in this process: a line of JSON whenever more is known"
    torch.manual_seed(0)
    found = {}
    for more in PARTS[name][0](s, until):
        found |= more
        print(json.dumps(found), flush=True)


def command(name, args, until):
    "How a part is started"
    return [sys.executable, __file__, "--child", name, "--until", str(until), "--device", args.device, *["--tiny"] * args.tiny]


def measure(name, args, seconds):
    "One part in a process of its own: what it found, and how it ended"
    began = time.time()
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err: # no pipes: a compiler that outlives the part would hold them
        process = subprocess.Popen(command(name, args, began + .85 * seconds), stdout=out, stderr=err, start_new_session=True, env=os.environ | dict(HF_HUB_OFFLINE="1"))
        try: ended = "done" if process.wait(seconds) == 0 else f"failed, exit status {process.returncode}"
        except subprocess.TimeoutExpired: ended = f"stopped after {seconds:.0f} seconds"
        finally:
            with suppress(ProcessLookupError): os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0), err.seek(0)
        lines, errors = out.readlines(), err.readlines()
    if ended.startswith("failed"): ended = ": ".join([ended, *[line.strip() for line in errors if line.strip()][-1:]])[:400]
    whole = [line for line in lines if line.startswith("{") and line.endswith("\n")]
    return dict(part=PARTS[name][0].__name__, ended=ended, seconds=round(time.time() - began, 1)) | (json.loads(whole[-1]) if whole else {})


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas")
    parser.add_argument("--minutes", type=float, default=7.5, help="all parts together; what is not done by then is left out")
    parser.add_argument("--tiny", action="store_true", help="only shows that the script runs")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="cuda; cpu if tiny")
    parser.add_argument("--out", help="file to write; results/benchmarks/gpu.json if not given, and below runs if tiny or on a CPU, which measures nothing to record")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.device = args.device or ("cpu" if args.tiny else "cuda")
    if args.child: return child(args.child, replace(TINY if args.tiny else Sizes(), device=args.device), args.until)
    parts = args.parts.split(",")
    if strange := set(parts) - set(PARTS): parser.error(f"no part {min(strange)!r}: choose from {list(PARTS)}")
    if args.device == "cuda" and not torch.cuda.is_available(): parser.error("no GPU is here: give --tiny to see that the script runs")
    place = "runs" if args.tiny or args.device == "cpu" else "results"
    path, end = Path(args.out or repo_root() / place / "benchmarks" / "gpu.json"), time.time() + 60 * args.minutes
    path.parent.mkdir(parents=True, exist_ok=True)
    record = dict(what="the package on a GPU: guidance, a step of the UNet, LoRA, classifier, chain", tiny=args.tiny, device=args.device,
                  clock="wall" if args.device == "cuda" else "CPU", minutes=args.minutes, sizes=TINY if args.tiny else Sizes(), parts={}, environment=environment())
    for i, name in enumerate(parts): # time that a part leaves is for those after it
        share = PARTS[name][1] / sum(PARTS[later][1] for later in parts[i:])
        record["parts"][name] = measure(name, args, share * max(end - time.time(), 0))
        write_json(path, record)
        print(name, json.dumps(record["parts"][name], indent=1), flush=True)
    print(path)
    return record


if __name__ == "__main__":
    main()
