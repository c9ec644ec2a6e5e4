"""Ten seeds of rows on a frozen body against one seed of the same rows from a network that learns.

    nice -n 10 python benchmarks/seeds.py            # writes results/benchmarks/seeds.json

Both learn from the phantom at the size of the profile `mini`, and are asked about all its validation and test images.
The frozen body is that of the profile's [training], and what it says of each image is computed here, too, before the
first row. The network that learns is that of [guide_training], which made the rows of Table 2 before the body was
frozen. Rows need no generated images. Seconds are of the CPU, over all threads, in one process; the two take turns.
"""
import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from logex_nb.classify.training import train_and_report
from logex_nb.core import environment, repo_root, write_json
from logex_nb.data.protocols import make_split
from logex_nb.data.tiles import pack
from logex_nb.generate.training_images import training_set
from logex_nb.run.study import Study


def timed(function, *args, **kwargs):
    "Its result, and the CPU seconds that it took"
    began = time.process_time()
    return function(*args, **kwargs), time.process_time() - began


def main(profile="mini", rows=("ce", "oversampling", "ce_rw"), seeds=10):
    "Seconds of both, and their ratio"
    study = Study("logex", profile, "phantom")
    protocol, learns = study.settings("protocol"), study.settings("guide_training")
    found = []
    with tempfile.TemporaryDirectory() as tmp:
        tiles = pack(data := study.source.open(), make_split(data, protocol), Path(tmp) / "data", protocol.size)
        for row in rows:
            images, labels = training_set(tiles, study.arms[row].add)
            changed = study.differences("arms", row)
            run = lambda recipe, seed, place: train_and_report(images, labels, tiles, recipe, seed, Path(tmp) / place, remembered=Path(tmp) / "remembered")
            one, slow = timed(run, study.settings("guide_training", **changed), 0, "learns")
            ten, fast = timed(lambda: [run(study.training(row), seed, "frozen") for seed in range(seeds)])
            found.append(dict(row=row, learns=slow, frozen=fast, fpr95_learns=one["test"]["fpr95_id"], fpr95_frozen=sum(r["test"]["fpr95_id"] for r in ten) / seeds))
    total = {key: sum(row[key] for row in found) for key in ("learns", "frozen")}
    return dict(rows=found, seeds=seeds, images=len(tiles), seconds=total, ratio=total["learns"] / total["frozen"],
                settings=dict(profile=profile, frozen=asdict(study.settings("training")), learns=asdict(learns)), **environment())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="mini", help="size of the phantom and of the networks")
    parser.add_argument("--seeds", type=int, default=10, help="of the frozen body's rows")
    parser.add_argument("--out", type=Path, default=repo_root() / "results/benchmarks/seeds.json")
    args = parser.parse_args()
    report = main(args.profile, seeds=args.seeds)
    write_json(args.out, report)
    print(json.dumps({k: report[k] for k in ("seconds", "ratio")}, indent=1))
