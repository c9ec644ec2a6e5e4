"Every score that pytorch-ood has, too, agrees with it: in order exactly, in value up to sign and documented scale"
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from logex_nb.detect.comparison import SCORES, needs

# Runs in a process of its own: the package imports torchvision, which its detectors do not use.
# Whatever is asked of the stand-in is a class that does nothing; it is gone with the process.
THEIRS = '''
import importlib.abc, importlib.machinery, sys, types
import numpy as np, torch

class StandIn(types.ModuleType):
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return type(name, (), {})

class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchvision": return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec): return StandIn(spec.name)
    def exec_module(self, module): pass

sys.meta_path.insert(0, Finder())
from pytorch_ood import detector as d
torch.set_default_dtype(torch.float64) # Mahalanobis and SHE make tensors of the default type
given = {k: torch.from_numpy(v) for k, v in np.load(sys.argv[1]).items()}
single = {k: v.float() if v.is_floating_point() else v for k, v in given.items()}
z, x, y = given["logits"], given["features"], given["train_labels"]
head = torch.nn.Linear(*reversed(given["weight"].shape))
head.weight.data, head.bias.data = given["weight"], given["bias"]
linear = lambda f: f @ given["weight"].to(f.dtype).T + given["bias"].to(f.dtype)
in_head = y < 4
of_head = given["train_features"][in_head], y[in_head]
react = d.ReAct(lambda f: f, linear).fit_feature_maps(given["train_features"], y)
def fitted(detector, given=given):
    return detector.fit_features(given["train_features"], y).predict_features(given["features"])
with torch.no_grad():
    found = dict(
        msp=d.MaxSoftmax.score(z), max_logit=d.MaxLogit.score(z), energy=d.EnergyBased.score(z),
        entropy=d.Entropy.score(z), gen=d.GEN.score(z),
        kl_matching=d.KLMatching(None).fit_logits(given["train_logits"], y).predict_logits(z),
        mahalanobis_head=d.Mahalanobis(None).fit_features(*of_head).predict_features(x),
        relative_mahalanobis=d.RMD(None).fit_features(*of_head).predict_features(x),
        knn=fitted(d.KNN(None)), react=react.predict_feature_maps(x), she=fitted(d.SHE(None, linear)),
        vim=fitted(d.ViM(None, 8, given["weight"], given["bias"]), single),
        nnguide=fitted(d.NNGuide(None, linear), single))
np.savez(sys.argv[2], **{k: v.double().numpy() for k, v in found.items()})
'''

# Ours over theirs. GEN: sum, not mean, over classes. Mahalanobis: the covariance is a mean, theirs a sum over
# the training images, of which 400 are head; and Mahalanobis has half the squared distance.
SCALE = dict(gen=8, mahalanobis_head=2 * 400, relative_mahalanobis=400)
OPTIONS = dict(vim=dict(dim=8))
SHARED = ["msp", "max_logit", "energy", "entropy", "gen", "kl_matching", "mahalanobis_head", "relative_mahalanobis",
          "knn", "vim", "react", "she", "nnguide"]


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(0)
    centres, weight, bias = rng.normal(size=(8, 24)), rng.normal(size=(8, 24)), rng.normal(size=8)
    weight = .2 * centres + .05 * weight  # they clip probabilities at 1e-7 for entropy and GEN: none is smaller here
    train_labels, labels = np.repeat(np.arange(8), [100] * 4 + [10] * 4), np.arange(200) % 8
    features, train_features = (centres[y] + rng.normal(size=(len(y), 24)) for y in (labels, train_labels))
    return dict(features=features, logits=features @ weight.T + bias, train_features=train_features,
                train_logits=train_features @ weight.T + bias, train_labels=train_labels, weight=weight, bias=bias)


@pytest.fixture(scope="module")
def theirs(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pytorch_ood")
    np.savez(folder / "in.npz", **given)
    run = subprocess.run([sys.executable, "-c", THEIRS, folder / "in.npz", folder / "out.npz"],
                         capture_output=True, text=True)
    if "No module named 'pytorch_ood'" in run.stderr:
        pytest.fail("pytorch-ood is not installed: run `make setup`, or `pip install --no-deps pytorch-ood==0.4.0`",
                    pytrace=False)
    assert run.returncode == 0, run.stderr
    return dict(np.load(folder / "out.npz"))


@pytest.mark.parametrize("name", SHARED)
def test_agrees(name, given, theirs):
    score = SCORES[name].function
    known = given | dict(tail=[4, 5, 6, 7])
    ours, other = score(**{k: known[k] for k in needs(score)}, **OPTIONS.get(name, {})), theirs[name]
    assert len(np.unique(other)) == len(other) == 200
    assert spearmanr(ours, other).statistic > 1 - 1e-9
    # they return minus the largest probability, we the probability of all other classes
    if name == "msp": other = other + 1
    np.testing.assert_allclose(ours, SCALE.get(name, 1) * other, rtol=1e-4, atol=1e-4 * np.std(ours))


def test_nothing_of_it_is_left_in_this_process(theirs):
    assert not {"torchvision", "pytorch_ood"} & {name.split(".")[0] for name in sys.modules}


def test_the_package_imports_neither():
    for path in (Path(__file__).parent.parent / "logex_nb").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) (pytorch_ood|torchvision)\b", path.read_text(), re.M), path
