"The plain arm of the benchmark makes the same images"
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import published  # noqa: E402

from logex_nb.generate.guidance import make_starts


@pytest.fixture
def tiny():
    args = Namespace(size="tiny", device="cpu", batch=2, steps=4, updates=2, images=2, few=1, rounds=1, arms=None)
    pipe, net, classes, ids, config, _ = published.setup(args)
    return args, pipe, net, {k: k for k in classes}, ids, replace(config, guidance_lr=.3, latent_lr=.1)


def test_every_arm_makes_the_images_and_the_plain_one_the_same(tiny):
    found, rounds = published.speed(*tiny)
    assert len(found) == 8 and all(row["images"] == (1 if name == "plain, no stop" else 2) for name, row in found.items())
    near = published.agreement(rounds)
    assert near["same_number_of_updates"] == near["images"] == 2 and near["largest_difference_of_best_confidence"] < 1e-3


def test_plain_stops_as_the_package_does(tiny):
    _, pipe, net, classes, ids, config = tiny
    starts = make_starts(classes, ids, replace(config, per_class=1))
    first = [path[0] for path in published.plainly(pipe, net, starts, config).values()]
    config = replace(config, stop=float(np.median(first)))
    ours, plain = published.ours(pipe, net, starts, config), published.plainly(pipe, net, starts, config)
    assert {s: len(p) for s, p in plain.items()} == {s: len(p) for s, p in ours.items()}
    assert {len(p) for p in plain.values()} > {1}
    assert {len(p) for p in published.plainly(pipe, net, starts, config, stop=False).values()} == {3}


@pytest.mark.parametrize("evaluations, slots, share", [([2, 2], 2, 1.), ([1, 3], 2, 4 / 6), ([2, 1, 1], 2, 1.), ([3], 4, .25)])
def test_occupancy(evaluations, slots, share):
    assert published.occupancy(evaluations, slots) == pytest.approx(share)
