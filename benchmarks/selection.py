"""Reconstruction errors of ten thousand synthetic images: time against scikit-learn and a loop, and peak memory from pixels on.

    nice -n 10 python benchmarks/selection.py            # writes results/benchmarks/selection.json

Both fit principal axes to the features of one class, 500 real images in eight orientations, and score the features of
10 000 synthetic ones, 1 280 numbers each. The reference is scikit-learn's PCA with the same share of the variance, and
a loop over images that asks it for the reconstruction of one at a time. They take turns in one process; seconds are of
the CPU, over all threads. Memory is the peak of `score_set` in a process of its own, from 10 000 images of 64 pixels to
every score, features included.
"""
import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from logex_nb.core import environment, repo_root, write_json
from logex_nb.data.tiles import Tiles
from logex_nb.judge.selection import Selection, reconstruction_error, score_set


def features(n, dims, rng, rank=200):
    "Features of a class: a few directions carry most of what differs"
    return rng.standard_normal((n, rank)) * np.linspace(3, .2, rank) @ rng.standard_normal((rank, dims)) + .1 * rng.standard_normal((n, dims))


def by_loop(real, synthetic, variance=.95):
    "scikit-learn, one image after the other"
    found = PCA(variance).fit(real)
    return np.array([np.linalg.norm(x - found.inverse_transform(found.transform(x[None]))[0]) for x in synthetic])


def timed(function, *args):
    "Result and CPU seconds"
    began = time.process_time()
    return function(*args), time.process_time() - began


def memory(images=10_000, real=500):
    "GiB at the peak, and CPU seconds, of scoring pixels"
    rng, began = np.random.default_rng(0), time.process_time()
    pixels = lambda n: rng.integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)
    table = pd.DataFrame(dict(image=np.arange(real).astype(str), class_id=0, group=np.arange(real).astype(str), part="tail", split="train"))
    score_set(pixels(images), np.zeros(images, int), Tiles(pixels(real), table, ["a", "b"]), np.zeros((images, 2)), Selection(), 0)
    return dict(peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, cpu_seconds=time.process_time() - began, images=images, real=real)


def main(images, dims, real, repeats):
    "Seconds of both, and their ratio"
    rng = np.random.default_rng(0)
    both = features(real * 8 + images, dims, rng)
    known, new = both[:real * 8], both[real * 8:]
    ours, theirs = [], []
    for _ in range(repeats):
        a, seconds = timed(reconstruction_error, known, new)
        ours.append(seconds)
        b, seconds = timed(by_loop, known, new)
        theirs.append(seconds)
    here = json.loads(subprocess.run([sys.executable, __file__, "--memory"], capture_output=True, text=True, check=True).stdout)
    return dict(images=images, dims=dims, real=real, seconds=dict(ours=ours, loop=theirs), ratio=median(theirs) / median(ours),
                largest_difference=float(np.abs(a - b).max()), memory=here, **environment())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000, help="synthetic ones")
    parser.add_argument("--dims", type=int, default=1280, help="of the features")
    parser.add_argument("--real", type=int, default=500, help="real images of the class")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each")
    parser.add_argument("--memory", action="store_true", help="only measure the memory of this process")
    parser.add_argument("--out", type=Path, default=repo_root() / "results/benchmarks/selection.json")
    args = parser.parse_args()
    if args.memory: print(json.dumps(memory()))
    else:
        write_json(args.out, report := main(args.images, args.dims, args.real, args.repeats))
        print(json.dumps({k: report[k] for k in ("seconds", "ratio", "largest_difference", "memory")}, indent=1))
