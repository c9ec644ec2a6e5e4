"Interrupted training, what is not continued, and what must not depend on a batch or on a level of 1"
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from logex_nb.adpm import guesses, training
from logex_nb.adpm.diffusion import LabelSampling, draw_labels, label_logits
from logex_nb.adpm.guesses import Guesser, crossfit, load_prior, prior_logits, train_prior
from logex_nb.adpm.loop import save_learned
from logex_nb.adpm.noise import LabelScheduler
from logex_nb.adpm.priors import Prior
from logex_nb.adpm.training import LabelDiffusion, denoiser_quality, load_denoiser, train_denoiser
from logex_nb.adpm.views import FrozenViews, TrunkViews

ROOT = Path(__file__).parent.parent
CLASSES, COUNTS = ["a", "b", "rare"], [20, 12, 5]
LABELS = np.repeat(np.arange(3), COUNTS)
IDS = np.flatnonzero(np.arange(len(LABELS)) % 5)
PRIOR = Prior(frozen=True, crops=1, hidden=8, dropout=.5, branch_loss="each", epochs=4, batch=8, lr=1e-2, min_lr=0., folds=2)
DENOISER = LabelDiffusion(frozen=True, width=16, time="film", token=8, heads=2, epochs=4, warmup=1, batch=8, lr=1e-2)
pytestmark = pytest.mark.usefixtures("tiny_backbone")


def frozen(versions=2):
    rng = np.random.default_rng(0)
    maps = rng.normal(LABELS[:, None, None, None, None], 1, (len(LABELS), versions, 2, 2, 6)).astype(np.float16)
    return FrozenViews(maps, maps.reshape(len(LABELS), versions, 4, 6))


def trunk(local=True):
    images = np.random.default_rng(0).integers(0, 256, (len(LABELS), 16, 16, 3), np.uint8)
    torch.manual_seed(0) # the trunks' own weights
    return TrunkViews(images, "tiny", size=16, local=local)


OTHERS = np.flatnonzero(np.arange(len(LABELS)) % 5 == 0)
VALIDATION = OTHERS, np.random.default_rng(2).normal(size=(len(OTHERS), 3)).astype(np.float32)
GUESSES = np.random.default_rng(1).normal(size=(3, len(IDS), 3)).astype(np.float32)


def prior(folder, config=PRIOR, seed=0, views=None):
    return train_prior(views or frozen(), LABELS, IDS, CLASSES, config, seed, folder, progress=False)


def denoiser(folder, config=DENOISER, seed=0, views=None, guesses=GUESSES, ids=IDS):
    given = guesses if isinstance(guesses, Guesser) else guesses[:, :len(ids)]
    return train_denoiser(views or frozen(), LABELS, ids, given, CLASSES, config, seed, folder, progress=False, validation=VALIDATION)


def beside(folder, config=replace(DENOISER, guesses="joint"), seed=0, views=None):
    "A denoiser with a prior network that goes on learning; both are what a run leaves"
    start = views[1] if views else frozen()
    if not (kept := folder.parent / "prior").exists(): save_learned(prior(kept, replace(PRIOR, frozen=config.frozen), views=start), start, kept, CLASSES, PRIOR)
    seen = views[2] if views else frozen()
    guesser = Guesser(load_prior(kept, seen, CLASSES, PRIOR), seen, PRIOR)
    return torch.nn.ModuleList([denoiser(folder, config, seed, views[0] if views else None, guesser), guesser.net])


def same(a, b): return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


def stopped(monkeypatch, loss, batches, train, *args, **kwargs):
    "Train until the loss of the batch after so many fails"
    module = guesses if loss == "prior_loss" else training
    calls, known = [], getattr(module, loss)
    def power_cut(*given):
        calls.append(1)
        if len(calls) > batches: raise OSError("power cut")
        return known(*given)
    with monkeypatch.context() as m:
        m.setattr(module, loss, power_cut)
        with pytest.raises(OSError, match="power cut"): train(*args, **kwargs)


KINDS = {
    "prior": (prior, "prior_loss", PRIOR), "focal prior": (prior, "prior_loss", replace(PRIOR, loss="focal", weight_decay=.1)),
    "denoiser": (denoiser, "diffusion_loss", DENOISER), "average": (denoiser, "diffusion_loss", replace(DENOISER, ema=.9)),
    "as released": (denoiser, "diffusion_loss", replace(DENOISER, time="table", image="product", alpha=0., token=512, heads=8)),
    "random levels": (denoiser, "diffusion_loss", replace(DENOISER, level="random", shuffled=True, checkpoint_every=2)),
    "best epoch": (denoiser, "diffusion_loss", replace(DENOISER, select="accuracy", ema=.5)),
    "joint": (beside, "diffusion_loss", replace(DENOISER, guesses="joint", select="f1"))}


@pytest.mark.parametrize("batches", [4, 10, 14])
@pytest.mark.parametrize("kind", KINDS)
def test_resume_is_bitwise(tmp_path, monkeypatch, kind, batches):
    "Four batches are an epoch: cut at its end, in the third and in the fourth"
    train, loss, config = KINDS[kind]
    whole = train(tmp_path / "whole", config)
    stopped(monkeypatch, loss, batches, train, tmp_path / "cut", config)
    every = getattr(config, "checkpoint_every", 1)
    done = batches // 4 // every * every
    history = tmp_path / "cut/history.csv"
    assert (len(pd.read_csv(history)) if history.exists() else 0) == done
    assert same(train(tmp_path / "cut", config), whole)
    a, b = (pd.read_csv(tmp_path / name / "history.csv") for name in ("whole", "cut"))
    pd.testing.assert_frame_equal(a, b)


@pytest.mark.parametrize("train, loss, config", [
    (prior, "prior_loss", replace(PRIOR, frozen=False, epochs=3)), (denoiser, "diffusion_loss", replace(DENOISER, frozen=False, epochs=3))], ids=["prior", "denoiser"])
def test_trunks_go_on_too(tmp_path, monkeypatch, train, loss, config):
    views = {name: trunk(train is prior) for name in ("whole", "cut", "again")}
    whole = train(tmp_path / "whole", config, views=views["whole"])
    stopped(monkeypatch, loss, 6, train, tmp_path / "cut", config, views=views["cut"])
    assert same(train(tmp_path / "cut", config, views=views["again"]), whole) and same(views["again"], views["whole"])
    assert not same(views["again"], trunk(train is prior))


@pytest.mark.parametrize("kind", ["prior", "denoiser"])
def test_a_run_goes_on_with_its_own_features_only(tmp_path, monkeypatch, kind):
    train, loss, config = KINDS[kind]
    v = frozen()
    others = FrozenViews(v.maps.numpy() + np.float16(1), v.windows.numpy() + np.float16(1))
    stopped(monkeypatch, loss, 6, train, tmp_path / "cut", config)
    with pytest.warns(UserWarning, match="training begins afresh"): found = train(tmp_path / "cut", config, views=others)
    assert same(found, train(tmp_path / "whole", config, views=others))


def test_a_prior_network_goes_on_learning_beside_the_denoiser(tmp_path):
    both = beside(tmp_path / "joint")
    begun = load_prior(tmp_path / "prior", frozen(), CLASSES, PRIOR)
    assert not same(both[1], begun)
    # without a learning rate it stays what it was, and the denoiser learns from guesses that never change
    still = beside(tmp_path / "still", replace(DENOISER, guesses="joint", prior_lr=0.))
    assert same(still[1], begun)
    v = frozen()
    one = FrozenViews(v.maps.numpy()[:, :1], v.windows.numpy()[:, :1]) # so that a guess of an image is always the same
    still = beside(tmp_path / "one view", replace(DENOISER, guesses="joint", prior_lr=0.), views=[one] * 3)[0]
    fixed = prior_logits(load_prior(tmp_path / "prior", one, CLASSES, PRIOR), one, IDS, PRIOR)
    alone = [denoiser(tmp_path / f"alone{k}", replace(DENOISER, guesses="in_sample"), views=one, guesses=fixed + k) for k in (0, VALIDATION[1][0])]
    far = [max((a - b).abs().max().item() for a, b in zip(still.state_dict().values(), net.state_dict().values())) for net in alone]
    assert 10 * far[0] < far[1] # rounding, against guesses that are a little different


def test_trunks_of_both_networks_learn_together(tmp_path):
    "As released: each network has a trunk of its own"
    config, recipe = replace(DENOISER, frozen=False, guesses="joint", epochs=1), replace(PRIOR, frozen=False, epochs=1)
    begun = trunk()
    save_learned(prior(tmp_path / "prior", recipe, views=begun), begun, tmp_path / "prior", CLASSES, recipe)
    own, seen = trunk(local=False), trunk()
    guesser = Guesser(load_prior(tmp_path / "prior", seen, CLASSES, recipe), seen, recipe)
    assert same(seen, begun)
    net = denoiser(tmp_path / "joint", config, views=own, guesses=guesser)
    assert not same(seen, begun) and not same(own, trunk(local=False))
    save_learned(net, own, tmp_path / "kept", CLASSES, config)
    again, _ = load_denoiser(tmp_path / "kept", found := trunk(local=False), CLASSES, config)
    assert same(again, net) and same(found, own)


def test_a_denoiser_learns_no_more_from_the_loss_of_the_prior(tmp_path):
    "Gradients of one network never reach the other"
    both = [beside(tmp_path / name, replace(DENOISER, guesses="joint", epochs=1, prior_lr=lr)) for name, lr in dict(a=1e-3, b=1e-1).items()]
    assert not same(both[0][1], both[1][1])
    one_batch = [beside(tmp_path / f"{name}1", replace(DENOISER, guesses="joint", epochs=1, batch=len(IDS), prior_lr=lr)) for name, lr in dict(a=1e-3, b=1e-1).items()]
    assert same(one_batch[0][0], one_batch[1][0]) and not same(one_batch[0][1], one_batch[1][1])


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_the_best_epoch_is_kept(tmp_path, metric):
    config = replace(DENOISER, select=metric, epochs=6, lr=5e-2)
    net, history = denoiser(tmp_path, config), pd.read_csv(tmp_path / "history.csv")
    guess, levels = torch.tensor(VALIDATION[1]).softmax(1), training.class_levels(config, np.bincount(LABELS[IDS]))
    found = denoiser_quality(net, LabelScheduler(), frozen(), OTHERS, LABELS[OTHERS], guess, levels, config)
    assert found[metric] == pytest.approx(history.validation.max())
    last = denoiser(tmp_path / "last", replace(config, select="last"))
    assert same(net, last) == (history.validation.idxmax() == 5)


def test_crossfitting_goes_on(tmp_path, monkeypatch):
    "Cut in the second network: the first one is not trained again"
    def of(folder): return crossfit(frozen, LABELS, np.arange(len(LABELS)), IDS, CLASSES, PRIOR, 0, folder, progress=False)
    whole, per_network = of(tmp_path / "whole"), 4 * -(-len(IDS) // 2 // 8)
    stopped(monkeypatch, "prior_loss", per_network + 3, of, tmp_path / "cut")
    calls, known = [], guesses.prior_loss
    monkeypatch.setattr(guesses, "prior_loss", lambda *given: calls.append(1) or known(*given))
    assert np.array_equal(of(tmp_path / "cut"), whole)
    assert len(calls) <= per_network


CHANGES = {"setting": dict(config=replace(DENOISER, kappa=4.)), "seed": dict(seed=1), "guesses": dict(guesses=GUESSES + 1e-3)}


@pytest.mark.parametrize("what", CHANGES)
def test_another_run_is_not_continued(tmp_path, monkeypatch, what):
    stopped(monkeypatch, "diffusion_loss", 9, denoiser, tmp_path / "a", **CHANGES[what])
    with pytest.warns(UserWarning, match="other settings, data or seed: training begins afresh"): net = denoiser(tmp_path / "a")
    assert same(net, denoiser(tmp_path / "b"))
    assert not same(net, denoiser(tmp_path / "c", **CHANGES[what]))


def test_another_prior_is_not_continued(tmp_path, monkeypatch):
    stopped(monkeypatch, "prior_loss", 9, prior, tmp_path / "a", replace(PRIOR, lr=2e-2))
    with pytest.warns(UserWarning, match="begins afresh"): net = prior(tmp_path / "a")
    assert same(net, prior(tmp_path / "b"))


def test_the_way_of_sampling_is_no_other_run(tmp_path, monkeypatch, recwarn):
    stopped(monkeypatch, "diffusion_loss", 9, denoiser, tmp_path / "a", replace(DENOISER, sampling="strided", further=("vote",)))
    assert same(denoiser(tmp_path / "a"), denoiser(tmp_path / "b"))
    assert not [w for w in recwarn if "afresh" in str(w.message)]


# ---- a level of 1 is isotropic noise

@pytest.mark.parametrize("reading", ["noise", "unit", "schedule"])
@pytest.mark.parametrize("changes", [
    dict(level="ones"), dict(alpha=0., kappa=9.), dict(alpha=0., level="prior"), dict(alpha=0., form="L4")], ids=str)
def test_level_one_is_isotropic_to_the_last_bit(tmp_path, changes, reading):
    isotropic = denoiser(tmp_path / "isotropic", replace(DENOISER, alpha=0.))
    assert same(denoiser(tmp_path / "other", replace(DENOISER, reading=reading, **changes)), isotropic)
    if reading == "noise": assert not same(denoiser(tmp_path / "anisotropic"), isotropic)


def test_a_weight_of_one_changes_nothing(tmp_path):
    weighted = replace(DENOISER, loss_weight="level")
    assert same(denoiser(tmp_path / "a", replace(weighted, alpha=0.)), denoiser(tmp_path / "b", replace(DENOISER, alpha=0.)))
    assert not same(denoiser(tmp_path / "c", replace(weighted, level="ones")), denoiser(tmp_path / "d", replace(DENOISER, level="ones")))


# ---- a sample belongs to its image

@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return denoiser(tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("how", [
    LabelSampling(steps=20), LabelSampling("strided", 5, 3), LabelSampling("strided", 5, 3, "vote"), LabelSampling("ddim", 5, 2), LabelSampling("point")],
    ids=lambda how: f"{how.sampler} {how.combine}")
def test_an_image_alone_gets_what_it_gets_in_a_batch(trained, how):
    ids, g = np.arange(len(LABELS)), torch.Generator().manual_seed(0)
    f, level = torch.rand(len(ids), 3, generator=g).softmax(1), 1 + torch.rand(len(ids), generator=g)
    names = np.array([f"image{i}" for i in ids])
    def draw(some, **changes): return draw_labels(trained, LabelScheduler(), frozen(1), ids[some], f[some], level[some], how, names[some], progress=False, **changes)
    together, far = draw(ids), 1e-2 if how.sampler == "point" else 1e-5 # matrix products of other sizes round differently, and one step multiplies that
    for some in (ids[[7]], ids[::-1].copy(), ids[[30, 2, 11]]):
        torch.testing.assert_close(draw(some), together[some], rtol=0, atol=far)
        assert torch.equal(label_logits(draw(some), how, f[some]).argmax(1), label_logits(together, how, f).argmax(1)[some])
    torch.testing.assert_close(draw(ids, batch=5), together, rtol=0, atol=far)


def test_the_first_of_many_samples_is_the_only_one(trained):
    ids, f = np.arange(9), torch.full((9, 3), 1 / 3)
    def draw(samples, seed=0): return draw_labels(trained, LabelScheduler(), frozen(1), ids, f, torch.ones(9), LabelSampling("strided", 5, samples), ids, seed, progress=False)
    torch.testing.assert_close(draw(4)[:, :1], draw(1), rtol=0, atol=1e-5)
    assert (draw(1) - draw(1, seed=1)).abs().max() > .01


# ---- kept and found again

def test_what_is_loaded_draws_the_same(tmp_path, trained):
    save_learned(trained, frozen(), tmp_path, CLASSES, DENOISER)
    again, scheduler = load_denoiser(tmp_path, frozen(), CLASSES, DENOISER)
    assert same(again, trained) and not again.training
    assert (scheduler.reading, scheduler.power, scheduler.prediction_type) == (DENOISER.reading, DENOISER.power, DENOISER.prediction_type)


LINE = """
import sys
from dataclasses import dataclass
from pathlib import Path
import torch
from logex_nb.adpm.loop import fit

@dataclass
class Recipe:
    epochs: int = 3
    batch: int = 8
    lr: float = .1
    weight_decay: float = .01

x = torch.randn(int(sys.argv[2]), 4, generator=torch.Generator().manual_seed(0))
y = x @ torch.tensor([1., -2., 3., 0.])
torch.manual_seed(0)
line, seen = torch.nn.Linear(4, 1), []

def one_batch(ids, generator):
    seen.append(len(ids))
    return (line(x[ids])[:, 0] - y[ids]).square().mean()

fit(line, one_batch, len(x), Recipe(), 0, Path(sys.argv[1]), "line", progress=False)
from accelerate import PartialState
if PartialState().is_main_process: torch.save(dict(line=line.state_dict(), seen=seen), Path(sys.argv[1]) / "out.pt")
"""


@pytest.mark.parametrize("rows, alone, shared", [(32, {8}, {4}), (15, {8, 7}, {4}), (11, {8, 3}, {4, 3})])
def test_two_processes_share_each_batch_and_learn_what_one_learns(tmp_path, rows, alone, shared):
    "Shares of seven are four and three; three are too few to share"
    script = tmp_path / "line.py"
    script.write_text(LINE)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] # what `accelerate launch` does on GPUs
    found = {}
    for name, before in dict(one=[], two=launch).items():
        done = subprocess.run([sys.executable, *before, script, tmp_path / name, str(rows)], capture_output=True, text=True, cwd=ROOT, timeout=120,
                              env=os.environ | dict(ACCELERATE_USE_CPU="true"))
        assert done.returncode == 0, done.stderr
        found[name] = torch.load(tmp_path / name / "out.pt", weights_only=True)
    assert set(found["one"]["seen"]) == alone and set(found["two"]["seen"]) == shared
    for key, value in found["one"]["line"].items(): torch.testing.assert_close(found["two"]["line"][key], value, atol=1e-5, rtol=1e-5)
