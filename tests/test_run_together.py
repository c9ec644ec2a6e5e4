"What several processes learn together is what one learns alone, up to rounding; only the first of them writes"
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from logex_nb.generate import pretraining

ROOT = Path(__file__).parent.parent
BEGIN = """
import sys
from pathlib import Path
from unittest.mock import patch
import numpy as np
from accelerate import debug_launcher
from logex_nb.run.devices import together

top = Path(sys.argv[1])
rng = np.random.default_rng(0)

def on_cpu(function, args, num_processes, use_port): debug_launcher(function, args, num_processes)

def share(function): # as a stage does it, with processor cores for devices
    for many in (1, 2):
        with patch("logex_nb.run.devices.devices", lambda: dict.fromkeys("01"[:many])), patch("accelerate.notebook_launcher", on_cpu): together(4, function, top / str(many))
"""
CLASSIFIER = BEGIN + """
from logex_nb.classify.backbones import SIZES
from logex_nb.classify.training import Training, train
SIZES["tiny"] = dict(layer_type="basic", depths=[1, 1], hidden_sizes=[8, 16], embedding_size=8)
labels = np.repeat([0, 1, 2], [10, 8, 5])
images = np.clip(rng.normal(np.array([60, 120, 190])[labels][:, None, None, None], 30, (23, 16, 16, 3)), 0, 255).astype(np.uint8)
config = Training(backbone="tiny", epochs=int(sys.argv[2]), batch=11, at_once=3, lr=1e-3, bn_mode=sys.argv[3], mixup=.2 * (sys.argv[3] == "paper"))
share(lambda folder: train(images, labels, images, labels, ["a", "b", "c"], [2], config, 0, folder, "cpu", False))
"""
BASE = BEGIN + """
from logex_nb.generate.pipeline import Architecture
from logex_nb.generate.pretraining import Pretrain, pretrain
images = rng.integers(0, 256, (6, 32, 32, 3), np.uint8)
small = Architecture(image_size=32, vae_channels=(16, 16, 16), unet_channels=(16, 32), text_width=16, text_layers=1, text_length=16, vocabulary=514)
config = Pretrain(vae_steps=3, vae_batch=5, unet_steps=3, unet_batch=5, vae_lr=1e-3, unet_lr=1e-3)
share(lambda folder: pretrain(images, ["a picture"] * 6, small, config, folder, 0, "cpu", False))
"""


def learned(tmp_path, code, *words):
    "Folders of one process and of two"
    done = subprocess.run([sys.executable, "-c", code, tmp_path, *words], env=os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=900)
    assert not done.returncode, done.stderr[-3000:]
    return tmp_path / "1", tmp_path / "2"


def same(a: dict, b: dict) -> bool: # Adam turns the sign of a gradient that is zero but for rounding into a step
    learnt = [name for name in a if "running" not in name and "batches" not in name]
    apart = np.concatenate([np.abs(a[name].numpy() - b[name].numpy()).ravel() for name in learnt])
    return a.keys() == b.keys() and (apart > 1e-5).mean() < .02


def test_a_classifier(tmp_path):
    one, two = learned(tmp_path, CLASSIFIER, "1", "clean")
    assert same(*(load_file(place / "weights.safetensors") for place in (one, two)))
    assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()} and not list(two.glob(".*"))


def test_a_classifier_with_frozen_statistics(tmp_path):
    "Running statistics are averaged, where a single process lets the last part count most; so the second epoch is not quite the same"
    one, two = (pd.read_csv(place / "history.csv").train_loss for place in learned(tmp_path, CLASSIFIER, "2", "paper"))
    assert np.allclose(one[0], two[0], rtol=1e-5) and np.allclose(one, two, rtol=.02) and one[1] < one[0]


def test_a_base_model(tmp_path):
    one, two = learned(tmp_path, BASE)
    for part in ("unet", "vae"): assert same(*(load_file(place / f"pipeline/{part}/diffusion_pytorch_model.safetensors") for place in (one, two))), part
    assert {p.relative_to(one) for p in one.rglob("*")} == {p.relative_to(two) for p in two.rglob("*")}


def test_more_processes_than_images(monkeypatch):
    monkeypatch.setattr(pretraining, "processes", lambda: (0, 2))
    with pytest.raises(ValueError, match="a batch of 1 cannot be shared by 2 processes"): pretraining._own(1)
