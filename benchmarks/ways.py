"""Two ways to run the three kinds of work of a study on a CPU: with freed memory handed back or kept, or in 16 or 32 bits.

    nice -n 10 python benchmarks/ways.py allocator     # writes results/benchmarks/allocator.json
    nice -n 10 python benchmarks/ways.py precision     # writes results/benchmarks/precision.json

Each measurement is a process of its own with one thread; the arms take turns. CPU seconds, those
that the system spends on page faults and the loading of the networks among them. A digest of what was made says
whether both made the same.
"""
import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from guidance import EVEN, IDS, PROMPTS, networks

from logex_nb.classify.training import Training, train
from logex_nb.core import environment, load_config, repo_root, write_json
from logex_nb.generate.guidance import guide, make_starts
from logex_nb.generate.lora import WEIGHTS, Lora, train_lora
from logex_nb.generate.pipeline import load_pipeline
from logex_nb.run.stage import KEEP_MEMORY

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (640, 64, 64, 3), dtype=np.uint8), RNG.integers(0, 16, 640)


def lora(folder, precision):
    config = replace(load_config(Lora, "mini", "phantom"), steps=24, precision=precision)
    train_lora(load_pipeline("mini"), IMAGES[:96], [*PROMPTS.values()] * 24, config, 0, folder)
    return (folder / WEIGHTS).read_bytes()


def classifier(folder, precision):
    config = replace(load_config(Training, "mini", "phantom"), epochs=4, precision=precision)
    names = [f"class {i}" for i in range(16)]
    net = train(IMAGES, LABELS, IMAGES[:160], np.arange(160) % 16, names, list(range(8, 16)), config, 0, folder, "cpu")
    return b"".join(p.detach().numpy().tobytes() for p in net.parameters())


def guidance(folder, precision):
    pipe, net = networks("mini", "mini", "cpu")
    config = replace(EVEN, batch=16, per_class=8, precision=precision)
    return b"".join(np.asarray(made.image).tobytes() for made in guide(pipe, net, make_starts(PROMPTS, IDS, config), config))


WORK = dict(lora=lora, classifier=classifier, guidance=guidance)
# words, and the two arms as (GLIBC_TUNABLES, precision); a ratio is the first over the second
COMPARED = dict(
    allocator=("freed memory handed back, over those with it kept", dict(back=("", "auto"), kept=(KEEP_MEMORY, "auto"))),
    precision=("bfloat16, over those with float32", dict(bf16=(KEEP_MEMORY, "bf16"), fp32=(KEEP_MEMORY, "fp32"))))


def child(work, precision):
    "One measurement, as JSON on the last line"
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        made = WORK[work](Path(folder), precision)
        seconds, usage = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps(dict(seconds=seconds, faults=usage.ru_minflt - before, peak_gib=usage.ru_maxrss / 2**20,
                          digest=hashlib.sha256(made).hexdigest())))


def measure(work, tunables, precision):
    "The same in a process of its own"
    env = os.environ | dict(GLIBC_TUNABLES=tunables, TQDM_DISABLE="1", OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, __file__, "--child", work, precision], env=env, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    if sys.argv[1:2] == ["--child"]: return child(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMPARED, help="what is compared")
    parser.add_argument("--rounds", type=int, default=3, help="measurements per arm and kind of work")
    parser.add_argument("--out", help="file to write, in results/benchmarks if not given")
    args = parser.parse_args()
    words, arms = COMPARED[args.what]
    rows = []
    for work in WORK:
        turns = [{arm: measure(work, *how) for arm, how in arms.items()} for _ in range(args.rounds)]
        first, second = arms
        ratios = [turn[first]["seconds"] / turn[second]["seconds"] for turn in turns]
        rows.append(dict(work=work, ratio=round(median(ratios), 2), ratios=[round(r, 2) for r in ratios],
                         same_bytes=len({run["digest"] for turn in turns for run in turn.values()}) == 1,
                         **{f"{key}_{arm}": round(median(turn[arm][key] for turn in turns), 2)
                            for arm in arms for key in ("seconds", "faults", "peak_gib")}))
        print(rows[-1], flush=True)
    write_json(args.out or repo_root() / "results" / "benchmarks" / f"{args.what}.json",
               dict(what=f"CPU seconds with {words}", arms=arms, threads=1, rounds=args.rounds, rows=rows, environment=environment()))


if __name__ == "__main__":
    main()
