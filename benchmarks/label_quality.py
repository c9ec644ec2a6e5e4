"""What fewer steps and a narrow denoiser cost in accuracy and macro F1.

    nice -n 10 python benchmarks/label_quality.py --dataset folder:PATH --seeds 0,1   # writes results/benchmarks/label_quality.json

DiffMIC's layers (a table of times, the product with the image) with isotropic noise learn from cross-fitted guesses for as
long as the profile says, at width 512 and at the published 6144. Images are seen as in the profile, through features that are remembered; features
and prior networks come from a study that has run: `make reproduce PROFILE=mini DATASET=... TARGET=adpm_comparison`.
The narrow one draws labels in 250 steps and in ten, both over the whole schedule. Test images; nothing is chosen by them.
"""
import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from logex_nb.adpm.diffusion import LabelSampling, draw_labels, label_logits
from logex_nb.adpm.noise import LabelScheduler
from logex_nb.adpm.training import train_denoiser
from logex_nb.adpm.views import open_views
from logex_nb.core import environment, repo_root, write_json
from logex_nb.data.protocols import at_fold
from logex_nb.data.tiles import load_tiles
from logex_nb.detect.classification import classification_report
from logex_nb.run.study import Study

WAYS = {"strided, 250 steps": LabelSampling("strided", 250, 10), "strided, 10 steps": LabelSampling("strided", 10, 10),
        "ddim, 250 steps": LabelSampling("ddim", 250), "ddim, 10 steps": LabelSampling("ddim", 10)}
WIDTHS = {512: list(WAYS), 6144: ["ddim, 10 steps"]}


def judged(study, seed, width, device):
    "A report for each way of drawing, by a denoiser that is trained here"
    config = replace(study.training("isotropic"), time="table", image="product", width=width, ema=0.)
    tiles, guessed = load_tiles(study.folder("data")), study.folder("prior", config.prior, f"seed{seed}")
    table = at_fold(tiles.table, study.fold(seed))
    labels, (train, test) = table.class_id.to_numpy(), (np.flatnonzero(table.split == split) for split in ("train", "test"))
    with np.load(guessed / "guesses.npz") as file: learned, guess = file["crossfit"], torch.tensor(file["test"][0], device=device).softmax(1)
    views = open_views(config, tiles.images, study.folder("features"), config.windows, seed, device)
    with tempfile.TemporaryDirectory() as tmp:
        net = train_denoiser(views, labels, train, learned, tiles.classes, config, seed, Path(tmp))
    scheduler = LabelScheduler(reading=config.reading, power=config.power, prediction_type=config.prediction_type)
    for way in WIDTHS[width]:
        drawn = draw_labels(net, scheduler, views, test, guess, torch.ones(len(test), device=device), WAYS[way], table.image.to_numpy()[test], seed, windows=config.windows)
        report = classification_report(label_logits(drawn, WAYS[way], guess.cpu()).numpy(), labels[test], tiles.classes)
        yield dict(seed=seed, width=width, way=way, **{m: round(report[m], 2) for m in ("accuracy", "f1")})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="phantom", help="as for `make reproduce`")
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--seeds", default="0,1", help="separated by commas")
    args = parser.parse_args()
    device, study = "cuda" if torch.cuda.is_available() else "cpu", Study("adpm", args.profile, args.dataset)
    if device == "cpu": torch.set_num_threads(1)
    rows = []
    for seed in map(int, args.seeds.split(",")):
        for width in WIDTHS:
            for row in judged(study, seed, width, device):
                rows.append(row)
                print(json.dumps(row), flush=True)
    write_json(repo_root() / "results/benchmarks/label_quality.json",
               dict(what="what fewer steps and a narrow denoiser cost", dataset=study.name, profile=args.profile, rows=rows, environment=environment()))


if __name__ == "__main__":
    main()
