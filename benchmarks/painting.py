"""Images per minute of a painter: batches, attention to one token, and ten steps against fifty.

    nice -n 10 python benchmarks/painting.py PAINTER     # writes results/benchmarks/painting.json

PAINTER is the folder of a finished stage, such as runs/mini/phantom_skin/isic/painter/group0. The photographs are
training images of its fold with the masks of the stage beside it, and each lesion is painted anew as its own class.
Ways of painting take turns in one process; seconds are of the CPU. KID compares the paintings with the real training
images of the same classes, by features of length one of a network with weights from ImageNet; real against real, half
against half, is the value of a perfect painter.
"""
import argparse
import json
import time
from pathlib import Path
from statistics import median

import numpy as np
from diffusers.models.attention_processor import AttnProcessor2_0

from logex_nb.classify.backbones import build_backbone
from logex_nb.classify.outputs import predict
from logex_nb.core import environment, repo_root, settled, write_json
from logex_nb.data.protocols import fold_of
from logex_nb.data.tiles import load_tiles
from logex_nb.generate.inpainting import PaintSampling, load_painter, paint
from logex_nb.generate.masks import dilated
from logex_nb.judge.quality import kid


def timed(function):
    "Result and CPU seconds"
    began = time.process_time()
    return function(), time.process_time() - began


def main(folder, images, repeats):
    "Seconds of each way, and KID of the numbers of steps"
    folder, fold = Path(folder), Path(folder).name
    tiles = fold_of(load_tiles(folder.parent.parent / "data"), fold)
    train, masks = tiles.subset(split="train"), np.load(folder.parent.parent / "masks" / fold / "masks.npy")
    rng = np.random.default_rng(0)
    per_class = [rng.permutation(np.flatnonzero(train.labels == c))[:-(-images // len(tiles.classes))] for c in range(len(tiles.classes))]
    rows = np.concatenate(per_class)[:images]
    photos, grown, ids = np.asarray(train.images[rows]), np.stack([dilated(m) for m in masks[rows]]), train.labels[rows]
    painter = load_painter(folder)
    precision = settled(PaintSampling(), "cpu").precision
    one_token = dict(painter.pipe.unet.attn_processors)
    usual = {name: AttnProcessor2_0() for name in one_token}

    def ask(n=len(rows), processors=one_token, **how):
        painter.pipe.unet.set_attn_processor(dict(processors))
        return timed(lambda: paint(painter, photos[:n], grown[:n], ids[:n], range(n), precision=precision, progress=False, **how))

    ways = dict(batches=lambda: ask(32), one_by_one=lambda: ask(32, batch=1), usual_attention=lambda: ask(32, usual), fifty_steps=lambda: ask(32, steps=50))
    seconds = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items(): seconds[name].append(way()[1])
    net = build_backbone("lite1", 2, "imagenet", size=128)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    look = lambda x: unit(predict(net, x)[1])
    real = look(np.asarray(train.images[np.sort(np.concatenate(per_class))]))
    half = rng.permutation(len(real))
    quality = {f"{steps} steps": kid(real, look(ask(steps=steps)[0]), size=min(100, images // 2)) for steps in (5, 10, 20, 50)}
    quality["real against real"] = kid(real[half[::2]], real[half[1::2]], size=min(100, len(half) // 2))
    rate = {name: 60 * 32 / median(found) for name, found in seconds.items()}
    return dict(images_per_cpu_minute=rate, ratios={f"batches over {name}": rate["batches"] / rate[name] for name in rate if name != "batches"},
                seconds=seconds, kid=quality, images=images, precision=precision, painter=str(folder), **environment())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("painter", help="folder of a finished stage `painter`")
    parser.add_argument("--images", type=int, default=240, help="paintings of which KID is computed")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each way")
    parser.add_argument("--out", type=Path, default=repo_root() / "results/benchmarks/painting.json")
    args = parser.parse_args()
    write_json(args.out, report := main(args.painter, args.images, args.repeats))
    print(json.dumps({k: report[k] for k in ("images_per_cpu_minute", "ratios", "kid")}, indent=1))
