"Bad input to label diffusion: each is one line that says what was given and what is possible, and leaves no result"
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from logex_nb.adpm.denoiser import Denoiser
from logex_nb.adpm.diffusion import LabelSampling, draw_labels, image_levels, label_logits, sample_labels
from logex_nb.adpm.guesses import Guesser, load_prior, train_prior
from logex_nb.adpm.loop import save_learned
from logex_nb.adpm.noise import LabelScheduler, noise_levels
from logex_nb.adpm.priors import Prior
from logex_nb.adpm.training import LabelDiffusion, class_levels, load_denoiser, train_denoiser
from logex_nb.adpm.views import load_views
from logex_nb.core import Run
from logex_nb.data.protocols import Protocol, make_split
from logex_nb.run.study import Study
from test_adpm_training import CLASSES, COUNTS, DENOISER, GUESSES, IDS, LABELS, PRIOR, crossfit, denoiser, frozen, trained, trunk
from test_data_hostile import fails
from test_data_protocols import dataset, patients

pytestmark = pytest.mark.usefixtures("tiny_backbone")
GROUPS = np.arange(len(LABELS))


@contextmanager
def refused(folder, message, kind=ValueError):
    "A stage that ends with this error: one line, no record, nothing that could pass for a result"
    with fails(message, kind), Run(folder, "stage"): yield
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == ["begun.json"]


# ---- classes that are too small

@pytest.mark.parametrize("train", [
    lambda ids, folder: train_prior(frozen(), LABELS, ids, CLASSES, PRIOR, 0, folder, progress=False),
    lambda ids, folder: denoiser(folder, ids=ids)], ids=["prior", "denoiser"])
def test_a_class_without_training_images(tmp_path, train):
    with refused(tmp_path, "no training image of ['rare']: every class needs at least one"): train(IDS[LABELS[IDS] < 2], tmp_path)


def test_a_class_with_one_training_image_is_learned(tmp_path):
    ids = np.r_[IDS[LABELS[IDS] < 2], IDS[LABELS[IDS] == 2][:1]]
    net = denoiser(tmp_path, ids=ids)
    assert all(value.isfinite().all() for value in net.state_dict().values())
    counts = np.bincount(LABELS[ids])
    assert counts[2] == 1 and np.isfinite(noise_levels(counts)).all()


def test_a_class_with_fewer_groups_than_folds(tmp_path):
    groups = np.where(LABELS == 2, -1, GROUPS) # all rare images of one patient
    with refused(tmp_path, "class 'rare' has 1 training groups, too few for 2 folds: set folds to 0 or to fewer"):
        crossfit(frozen, LABELS, groups, IDS, CLASSES, PRIOR, 0, tmp_path, progress=False)


def test_fewer_groups_than_test_folds(tmp_path):
    with refused(tmp_path, "class 'vessels' has 4 groups, too few for 5 folds"):
        make_split(dataset(patients(dict(naevus=60, vessels=16))), Protocol(kind="folds"))


@pytest.mark.parametrize("change, message", [
    (lambda t: t.assign(fold=t.group.str[-1:].map(ord) % 2 * 2), "fold 1 of"),
    (lambda t: t.assign(fold=np.arange(len(t)) % 3), "groups cross: a group may be in one fold only")], ids=["empty", "crossing"])
def test_folds_that_do_not_fit(tmp_path, change, message):
    with refused(tmp_path, message): make_split(dataset(change(patients(dict(naevus=60, vessels=40)))), Protocol(kind="folds", folds=3))


@pytest.mark.parametrize("counts, message", [([5, 0, 3], "class 1 has no image"), ([5, np.nan, 3], "class 1 has no image"), ([0, 0], "class 0 has no image")])
def test_levels_of_a_class_without_images(counts, message):
    with fails(message): noise_levels(counts)


def test_no_class_is_large_enough_for_a_level():
    with fails("no class has 10 images, the largest 5: lower min_count"): noise_levels([5, 3], min_count=10)


# ---- settings

@pytest.mark.parametrize("make, message", [
    (lambda: noise_levels([5, 3], "L5"), "no form 'L5': choose from ['L1', 'L2', 'L3', 'L4']"),
    (lambda: noise_levels([5, 3], alpha=1.1), "alpha is 1.1: choose from [0, 1]"),
    (lambda: noise_levels([5, 3], alpha=-.1), "alpha is -0.1: choose from [0, 1]"),
    (lambda: noise_levels([5, 3], alpha=float("nan")), "alpha is nan: choose from [0, 1]"),
    (lambda: noise_levels([5, 3], kappa=.5), "kappa is 0.5: choose 1 or more"),
    (lambda: noise_levels([5, 3], kappa=float("inf")), "kappa is inf: choose 1 or more"),
    (lambda: LabelScheduler(reading="variance"), "no reading 'variance': choose from ['noise', 'unit', 'schedule']"),
    (lambda: LabelScheduler(prediction_type="v"), "no prediction_type 'v': choose from ['epsilon', 'sample']"),
    (lambda: LabelSampling("ddpm"), "no sampler 'ddpm': choose from ['truncated', 'strided', 'ddim', 'point']"),
    (lambda: LabelSampling(level="truth"), "no level 'truth': choose from ['label', 'prior', 'expected', 'random', 'ones']"),
    (lambda: LabelSampling(combine="median"), "no combine 'median': choose from ['mean', 'vote']"),
    (lambda: LabelSampling(samples=0), "samples is 0"), (lambda: LabelSampling(blend=1.), "blend is 1.0"),
    (lambda: LabelDiffusion(guesses="oof"), "no guesses 'oof': choose from ['crossfit', 'in_sample', 'joint']"),
    (lambda: LabelDiffusion(objective="ce"), "no objective 'ce': choose from ['diffusion', 'direct']"),
    (lambda: LabelDiffusion(loss_weight="inverse"), "no loss_weight 'inverse': choose from ['none', 'level']"),
    (lambda: LabelDiffusion(level="oracle"), "no level 'oracle': choose from ["),
    (lambda: Denoiser(3, 6, 16, time="clock"), "no time 'clock': choose from ['table', 'film']"),
    (lambda: Denoiser(3, 6, 16, image="sum"), "no image 'sum': choose from ['attention', 'product']"),
    (lambda: Denoiser(3, 6, 16, token=6, heads=2), "width 16, token 6, heads 2: each must divide the one before"),
    (lambda: Prior(branch_loss="both"), "no branch_loss 'both': choose from ['fused', 'each']"),
    (lambda: Prior(folds=1), "folds is 1: choose 2 or more, or 0 for none"),
    (lambda: Study("adpm", "smoke", "phantom").samplers["heun"], "no sampler 'heun': choose from ['released', 'strided'"),
    (lambda: Study("adpm", "smoke", "phantom").training("admp"), "no arm 'admp': choose from ['prior'"),
], ids=lambda x: x if isinstance(x, str) else "")
def test_unknown_words_and_numbers_out_of_range(make, message):
    with fails(message): make()


@pytest.mark.parametrize("changes, message", [
    (dict(form="L5"), "no form 'L5'"), (dict(alpha=2.), "alpha is 2.0"), (dict(kappa=0.), "kappa is 0.0"), (dict(reading="std"), "no reading 'std'"),
    (dict(prediction_type="y"), "no prediction_type 'y'"), (dict(time="clock"), "no time"), (dict(image="sum"), "no image 'sum'"), (dict(token=7), "each must divide")])
def test_settings_are_refused_before_anything_is_trained(tmp_path, changes, message):
    with refused(tmp_path, message): denoiser(tmp_path, replace(DENOISER, **changes))


def test_an_unknown_loss_of_the_prior(tmp_path):
    with refused(tmp_path, "no loss 'focla': choose from"):
        train_prior(frozen(), LABELS, IDS, CLASSES, replace(PRIOR, loss="focla"), 0, tmp_path, progress=False)


@pytest.mark.parametrize("n", [0, 1001])
def test_steps_that_the_schedule_does_not_have(trained, n):
    with fails(f"num_inference_steps is {n}: choose from 1 to 1000"): drawn(trained, LabelSampling("strided", n))


# ---- guesses

UNIFORM = torch.full((4, 3), 1 / 3)


def drawn(net, how, f=UNIFORM, level=None, labels=None):
    names = [f"image{i}" for i in range(len(f))]
    return draw_labels(net, LabelScheduler(), frozen(1), np.arange(len(f)), f, torch.ones(len(f)) if level is None else level, how, names, progress=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_training_guesses_that_are_not_finite(tmp_path, bad):
    guesses = GUESSES.copy()
    guesses[1, 7, 2] = bad
    with refused(tmp_path, "the guess of training image 7 is not finite"): denoiser(tmp_path, guesses=guesses)


@pytest.mark.parametrize("sampler", ["truncated", "strided", "ddim"])
def test_a_test_guess_that_is_nan(trained, sampler):
    f = UNIFORM.clone()
    f[2, 1] = torch.nan
    with fails("the prior of row 2 is NaN"): drawn(trained, LabelSampling(sampler, 5), f)


@pytest.mark.parametrize("how", [LabelSampling(steps=20), LabelSampling("strided", 5, 4, "vote"), LabelSampling("ddim", 5), LabelSampling("point", blend=.5)], ids=lambda how: how.sampler)
def test_a_uniform_guess_gets_a_label(trained, how):
    "It favours no class: the noise level is that of the first one, and what is corrected is counted against the first"
    levels = class_levels(DENOISER, COUNTS)
    level = image_levels("prior", levels, UNIFORM)
    assert torch.equal(level, levels[:1].expand(4))
    logits = label_logits(drawn(trained, how, level=level), how, UNIFORM)
    assert logits.isfinite().all() and torch.allclose(logits.exp().sum(1), torch.ones(4))
    assert not label_logits(UNIFORM[:, None], how, UNIFORM).argmax(1).any()


def test_levels_by_a_label_that_nobody_gave():
    with fails("noise levels by 'label' need the labels: give them, or take 'prior'"): image_levels("label", torch.ones(3), UNIFORM)


@pytest.mark.parametrize("level", [torch.nan, torch.inf, -1.])
def test_a_level_that_is_no_level(trained, level):
    with fails("a noise level is"): drawn(trained, LabelSampling("strided", 5), level=torch.full((4,), level))


def test_one_level_per_image(trained):
    with fails("expected one per row"): sample_labels(trained, LabelScheduler(), frozen(1).look(torch.arange(4)).maps, UNIFORM, torch.ones(3), LabelSampling("strided", 5), "abcd")


# ---- checkpoints and features

@pytest.fixture
def kept(tmp_path, trained):
    save_learned(trained, frozen(), tmp_path, CLASSES, DENOISER)
    return tmp_path


@pytest.mark.parametrize("classes", [["a", "b"], ["b", "a", "rare"], ["a", "b", "other"]])
def test_a_checkpoint_of_other_classes(kept, classes):
    with fails(f"has classes ['a', 'b', 'rare'], not {classes}: train one with these settings"): load_denoiser(kept, frozen(), classes, DENOISER)


@pytest.mark.parametrize("changes, message", [
    (dict(width=32), "has width 16, not 32"), (dict(time="table"), "has time film, not table"), (dict(image="product"), "has image attention, not product"),
    (dict(backbone="50"), "has backbone 18, not 50")])
def test_a_checkpoint_of_other_settings(kept, changes, message):
    with fails(f"{message}: train one with these settings"): load_denoiser(kept, frozen(), CLASSES, replace(DENOISER, **changes))


def test_a_checkpoint_over_other_features(kept):
    with fails("has features per cell 6, not 16"): load_denoiser(kept, trunk(local=False), CLASSES, DENOISER)


def test_no_checkpoint(tmp_path):
    with fails("no network in", FileNotFoundError): load_denoiser(tmp_path, frozen(), CLASSES, DENOISER)


def test_a_damaged_checkpoint(kept):
    weights = kept / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with fails("incomplete metadata, file not fully covered", SafetensorError): load_denoiser(kept, frozen(), CLASSES, DENOISER)


def test_a_prior_of_other_settings(tmp_path):
    save_learned(train_prior(frozen(), LABELS, IDS, CLASSES, PRIOR, 0, tmp_path, progress=False), frozen(), tmp_path, CLASSES, PRIOR)
    with fails("has hidden 8, not 9: train one with these settings"): load_prior(tmp_path, frozen(), CLASSES, replace(PRIOR, hidden=9))


@pytest.mark.parametrize("changes, message", [
    (dict(guesses="joint"), "guesses is 'joint': give a Guesser, whose network goes on learning"),
    (dict(select="f1"), "select is 'f1': give validation images and their guesses, or choose 'last'"),
    (dict(select="test"), "no select 'test': choose from ['last', 'accuracy', 'f1']")])
def test_guesses_of_another_kind(tmp_path, changes, message):
    with refused(tmp_path, message): train_denoiser(frozen(), LABELS, IDS, GUESSES, CLASSES, replace(DENOISER, **changes), 0, tmp_path, progress=False)


def test_a_guesser_where_numbers_are_expected(tmp_path):
    with refused(tmp_path, "guesses is 'crossfit': give logits"): denoiser(tmp_path, guesses=Guesser(None, frozen(), PRIOR))


def test_no_features(tmp_path):
    with fails("no maps.npy in", FileNotFoundError): load_views(tmp_path)
