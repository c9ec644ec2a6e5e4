"""Interruptions, hostile input and odd sizes: what the training notebook has no room for"""
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY

from logex_nb import core
from logex_nb.classify import training
from logex_nb.classify.backbones import SIZES, build_backbone, load_classifier # noqa: F401, a process of its own sets a size
from logex_nb.classify.outputs import predict
from logex_nb.classify.training import Training, train

CLASSES, TAIL = ["a", "b", "rare"], [2]
CONFIG = Training(backbone="tiny", epochs=4, batch=8, lr=1e-2, loss="ldam", class_weights="cb", drw_epoch=2)
pytestmark = pytest.mark.usefixtures("tiny_backbone")


def tiles(counts, seed):
    rng, labels = np.random.default_rng(seed), np.repeat(np.arange(3), counts)
    colour = np.array([[200, 90, 160], [120, 80, 190], [160, 90, 170]])[labels]
    return np.clip(rng.normal(colour[:, None, None], 40, (len(labels), 16, 16, 3)), 0, 255).astype(np.uint8), labels


def run(folder, config=CONFIG, seed=0, **changes):
    (x, y), (vx, vy) = tiles([14, 14, 5], 0), tiles([6, 6, 6], 1)
    data = dict(images=x, labels=y, val_images=vx, val_labels=vy, classes=CLASSES, tail=TAIL) | changes
    return train(**data, config=config, seed=seed, folder=folder)


def same(a, b): return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, bn_mode="clean", loss="ce", drw_epoch=0, precision="bf16")])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resume_is_bitwise(tmp_path, monkeypatch, config, stop):
    "Across the freezing of batch statistics, the switch of weights, and in the middle of an epoch"
    whole, calls, validate = run(tmp_path / "whole", config), [], training.validate
    def power_cut(*args):
        calls.append(1)
        if len(calls) > stop: raise OSError("power cut")
        return validate(*args)
    with monkeypatch.context() as m:
        m.setattr(training, "validate", power_cut)
        with pytest.raises(OSError): run(tmp_path / "cut", config)
    assert len(pd.read_csv(tmp_path / "cut" / "history.csv")) == stop
    assert same(run(tmp_path / "cut", config), whole)
    a, b = (pd.read_csv(tmp_path / name / "history.csv").drop(columns="seconds") for name in ("whole", "cut"))
    pd.testing.assert_frame_equal(a, b)


def test_killed_process_goes_on(tmp_path):
    "A real SIGKILL while the checkpoint of the third epoch is being written"
    code = f"""
import os, signal, sys, torch
sys.path.insert(0, {os.path.dirname(__file__)!r})
import test_classify_training as t
torch.set_num_threads(1)
t.SIZES["tiny"] = t.TINY
save, calls = torch.save, []
def killed(state, path):
    calls.append(1)
    if len(calls) < 3: return save(state, path)
    path.write_bytes(b"half"); os.kill(os.getpid(), signal.SIGKILL)
torch.save = killed
t.run({str(tmp_path / "cut")!r})
"""
    env = os.environ | dict(OMP_NUM_THREADS="1")
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True).returncode == -signal.SIGKILL
    assert len(pd.read_csv(tmp_path / "cut" / "history.csv")) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(run(tmp_path / "cut"), run(tmp_path / "whole"))


def test_other_settings_begin_afresh(tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(training, "save_classifier", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError): run(tmp_path / "a", seed=1)
    with pytest.warns(UserWarning, match="other settings, data or seed"): net = run(tmp_path / "a")
    assert same(net, run(tmp_path / "b"))
    assert not same(net, run(tmp_path / "c", seed=1))


def test_another_processor_begins_afresh(tmp_path, monkeypatch):
    "Where `auto` means another precision than before"
    auto = replace(CONFIG, precision="auto")
    monkeypatch.setattr(core, "computes_bf16", lambda device: True)
    with monkeypatch.context() as m:
        m.setattr(training, "save_classifier", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError): run(tmp_path / "a", auto)
    monkeypatch.setattr(core, "computes_bf16", lambda device: False)
    with pytest.warns(UserWarning, match="other settings, data or seed"): net = run(tmp_path / "a", auto)
    assert same(net, run(tmp_path / "b", replace(CONFIG, precision="fp32")))


def test_nan_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    good, epoch = training.train_epoch, []
    monkeypatch.setattr(training, "train_epoch", lambda *args: epoch.append(1) or (good(*args) if len(epoch) < 3 else float("nan")))
    with pytest.raises(RuntimeError, match="training loss is nan in epoch 3: try a lower lr than 0.01; the 2 epochs"): run(tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(state["history"]) == 2 and all(v.isfinite().all() for v in state["net"].values())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt", "history.csv"]


def test_checkpoint_cannot_run_code(tmp_path):
    class Harm:
        def __reduce__(self): return os.system, ("true",)
    torch.save(dict(key=Harm()), tmp_path / "checkpoint.pt")
    with pytest.raises(Exception, match="[Ww]eights.only"): run(tmp_path)


def test_memory_mapped_images_stay_on_disk(tmp_path):
    x, y = tiles([14, 14, 5], 0)
    np.save(tmp_path / "images.npy", x)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = run(tmp_path / "a", images=mapped, labels=y.tolist())
        assert np.array_equal(predict(net, mapped)[0], predict(net, x)[0])
    assert same(net, run(tmp_path / "b"))


def test_a_last_batch_of_one_image(tmp_path):
    "33 tiles of 16 px in batches of 8 leave one image, with one cell in the last stage of '18'"
    net = run(tmp_path, replace(CONFIG, backbone="18", epochs=1, drw_epoch=0))
    assert same(net, load_classifier(tmp_path))


def test_frozen_statistics_do_not_move(tmp_path, monkeypatch):
    "The last epoch is kept here, so its statistics are compared with those of the first"
    monkeypatch.setattr(training, "validate", lambda *args: dict(value=0., bacc_head=0., fpr95_id=0.) | dict(value=len(kept)))
    kept, save = [], training.save_checkpoint
    monkeypatch.setattr(training, "save_checkpoint", lambda *args: kept.append(1) or save(*args))
    key = "body.embedder.embedder.normalization.running_mean"
    after = lambda **changes: run(tmp_path / str(changes), replace(CONFIG, **changes)).state_dict()[key]
    assert torch.equal(after(bn_mode="paper"), after(epochs=1))
    assert not torch.equal(after(bn_mode="clean"), after(epochs=1))


@pytest.mark.parametrize("changes, message", [
    (dict(images=np.zeros((33, 16, 16, 3), np.float32)), "images are float32"),
    (dict(val_images=np.zeros((18, 16, 16), np.uint8)), r"expected uint8 \[n, h, w, 3\]"),
    (dict(labels=np.r_[np.zeros(32), 7]), "training label 7 is none of the 3 classes"),
    (dict(labels=np.zeros(33)), r"no training image of \['b', 'rare'\]"),
    (dict(val_labels=np.repeat([0, 1], 9)), r"no validation image of tail \['rare'\]"),
    (dict(val_labels=np.full(18, 2)), r"no validation image of head \['a', 'b'\]"),
    (dict(tail=[]), "need at least one class"),
    (dict(tail=[0, 1, 2]), "need at least one class"),
])
def test_mistakes_are_named_before_anything_is_trained(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message): run(tmp_path / "a", **changes)
    assert not list(tmp_path.glob("a/*"))


@pytest.mark.parametrize("changes, message", [
    (dict(loss="ldma"), "no loss 'ldma': choose from"), (dict(class_weights="rw"), "no class weights 'rw': choose from"),
    (dict(posthoc="adjust", head="cosine"), "a cosine head has none")])
def test_a_wrong_setting_is_named_when_it_is_given(changes, message):
    with pytest.raises(ValueError, match=message): replace(CONFIG, **changes)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError): run(tmp_path / "file" / "a")


def test_grayscale_weights_are_refused(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification
    ResNetForImageClassification(ResNetConfig(**TINY, num_channels=1)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="do not fit backbone 'tiny'"): build_backbone("tiny", 3, weights=tmp_path)
