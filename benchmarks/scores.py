"""Every outlier score at the size of the LoGex paper's test set: peak memory, and time against pytorch-ood's detectors.

    nice -n 10 python benchmarks/scores.py            # writes results/benchmarks/scores.json

28 039 test images, 16 classes, 2 048 features, and a training set of four head classes of 5 000 images and twelve
tail classes of ten; random numbers in single precision, as networks put them out. Memory is the peak of `score_all`
in a process of its own, inputs included. For time, both libraries fit and score in one process and take turns;
seconds are of the CPU, over all threads. A ratio above one says that ours takes less. Scores of logits alone take
milliseconds in either library; ours are in double precision and check what comes in.
"""
import argparse
import importlib.abc
import importlib.machinery
import json
import os
import resource
import subprocess
import sys
import time
import types
from importlib.metadata import version
from statistics import median

import numpy as np
import torch

from logex_nb.core import environment, repo_root, write_json
from logex_nb.detect.comparison import SCORES, needs, score_all

TAIL = list(range(4, 16))


class Torchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    "An empty stand-in: pytorch-ood imports torchvision, which its detectors do not use"
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__path__, module.__getattr__ = [], lambda name: type(name, (), {})
        return module

    def exec_module(self, module): pass


def outputs(n, per_class, d, layer, centres, rng):
    "Outputs of a network with this last layer on classes of these sizes"
    labels = np.arange(n) % 16 if per_class is None else np.repeat(np.arange(16), per_class)
    features = rng.standard_normal((len(labels), d), dtype=np.float32)
    features += centres[labels]
    np.maximum(features, 0, out=features)
    return dict(logits=features @ layer[0].T + layer[1], features=features, labels=labels, ids=np.arange(len(labels)))


def make(args):
    "Test and training outputs, and the last layer"
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((16, args.dims), dtype=np.float32)
    layer = centres / args.dims**.5, np.zeros(16, np.float32)
    test = outputs(args.images, None, args.dims, layer, centres, rng)
    return test, outputs(None, [args.head] * 4 + [10] * 12, args.dims, layer, centres, rng), layer


def memory_here(args):
    "GiB and seconds of `score_all` in this process"
    test, train, layer = make(args)
    before, began, cpu = peak(), time.perf_counter(), time.process_time()
    frame = score_all(test, TAIL, train, layer)
    return dict(scores=frame["score"].nunique(), inputs_gib=round(before, 2), peak_gib=round(peak(), 2),
                seconds=round(time.perf_counter() - began, 1), cpu_seconds=round(time.process_time() - cpu, 1))


def peak():
    "GiB"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def theirs(test, train, layer):
    "Fit and score, by name of our score"
    sys.meta_path.insert(0, Torchvision())
    from pytorch_ood import detector as d
    tensors = lambda outputs: {k: torch.from_numpy(v) for k, v in outputs.items()}
    (test, train), (w, b) = map(tensors, (test, train)), map(torch.from_numpy, layer)
    x, z, xs, ys = test["features"], test["logits"], train["features"], train["labels"]
    in_head = ys < 4
    linear = lambda f: f @ w.T + b
    def fitted(detector, rows=slice(None)):
        return lambda: detector().fit_features(xs[rows], ys[rows]).predict_features(x)
    dim = max(1, min(1000 if x.shape[1] > 1500 else 512, x.shape[1] // 2, len(xs) // 2))
    return dict(
        msp=lambda: d.MaxSoftmax.score(z), max_logit=lambda: d.MaxLogit.score(z), energy=lambda: d.EnergyBased.score(z),
        entropy=lambda: d.Entropy.score(z), gen=lambda: d.GEN.score(z),
        kl_matching=lambda: d.KLMatching(None).fit_logits(train["logits"]).predict_logits(z),
        mahalanobis_head=fitted(lambda: d.Mahalanobis(None), in_head),
        relative_mahalanobis=fitted(lambda: d.RMD(None), in_head),
        knn=fitted(lambda: d.KNN(None)), vim=fitted(lambda: d.ViM(None, dim, w, b)),
        react=lambda: d.ReAct(lambda f: f, linear).fit_feature_maps(xs, ys).predict_feature_maps(x),
        she=fitted(lambda: d.SHE(None, linear)), nnguide=fitted(lambda: d.NNGuide(None, linear)))


def ours(test, train, layer):
    "Scores with all they read, by name"
    known = {k: test[k] for k in ("logits", "features")} | dict(tail=TAIL, weight=layer[0], bias=layer[1])
    known |= {f"train_{k}": train[k] for k in ("logits", "features", "labels")}
    return {name: lambda f=s.function: f(**{k: known[k] for k in needs(f)}) for name, s in SCORES.items()}


def clock(call):
    "CPU seconds of a call, repeated where it is too short to measure"
    times, began = 0, time.process_time()
    while (seconds := time.process_time() - began) < .2 or not times:
        call()
        times += 1
    return seconds / times if times else seconds


@torch.no_grad()
def speed(args):
    "A row per score that both libraries have"
    data = make(args)
    mine, other = ours(*data), theirs(*data)
    rows = []
    for name, call in other.items():
        pairs = [(clock(mine[name]), clock(call)) for _ in range(args.rounds)]
        m, o = (median(column) for column in zip(*pairs))
        rows.append(dict(score=name, seconds=round(m, 4), pytorch_ood_seconds=round(o, 4), ratio=round(o / m, 2)))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=28039, help="test images")
    parser.add_argument("--dims", type=int, default=2048, help="features per image")
    parser.add_argument("--head", type=int, default=5000, help="training images per head class")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=str(repo_root() / "results" / "benchmarks" / "scores.json"))
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory: return print(json.dumps(memory_here(args)))
    sizes = ["--images", args.images, "--dims", args.dims, "--head", args.head]
    command = [sys.executable, __file__, "--memory", *map(str, sizes)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    whole = json.loads(out.stdout.splitlines()[-1])
    print(json.dumps(whole), flush=True)
    rows = speed(args)
    together = sum(r["pytorch_ood_seconds"] for r in rows) / sum(r["seconds"] for r in rows)
    packages = dict(pytorch_ood=version("pytorch-ood"))
    write_json(args.out, dict(
        what="outlier scores: peak memory of all, time of each against pytorch-ood", images=args.images, dims=args.dims,
        train=4 * args.head + 120, rounds=args.rounds, clock="CPU", threads=torch.get_num_threads(),
        load=[round(x, 1) for x in os.getloadavg()], score_all=whole, ratio=round(together, 2), rows=rows, compared_with=packages,
        environment=environment()))


if __name__ == "__main__":
    main()
