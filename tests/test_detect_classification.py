"Metrics of classification under absent classes, ties, other input types and bin edges, against scikit-learn and brute force"
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from logex_nb.detect.classification import by_class, calibration_error, changed, classification_report, reliability


@pytest.mark.parametrize("c, absent", [(2, 0), (5, 1), (7, 3)])
def test_macro_averages_over_a_fixed_set(c, absent):
    rng, classes = np.random.default_rng(c), [f"class {k}" for k in range(c)]
    labels, scores = rng.integers(0, c - absent, 90), rng.normal(size=(90, c)).round(1)
    report, table = classification_report(scores, labels, classes), by_class(scores, labels, classes)
    predicted = scores.argmax(1)
    for name, metric in dict(f1=f1_score, precision=precision_score, recall=recall_score).items():
        expected = 100 * metric(labels, predicted, labels=range(c), average="macro", zero_division=0)
        assert report[name] == pytest.approx(expected) == pytest.approx(table[name].mean())
    assert report["accuracy"] == pytest.approx(100 * accuracy_score(labels, predicted))
    assert table["n"].tolist() == np.bincount(labels, minlength=c).tolist() and list(table["class"]) == classes


def test_type_of_input_does_not_matter():
    rng, classes = np.random.default_rng(0), ["a", "b", "c"]
    scores, labels = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 3, 40)
    report = classification_report(scores, labels, classes)
    for same in (torch.tensor(scores), scores.tolist(), scores.argmax(1), torch.tensor(scores.argmax(1))):
        assert classification_report(same, torch.tensor(labels), classes) == report
        assert changed(same, scores, labels)["changed"] == 0
    assert calibration_error(torch.tensor(scores).softmax(-1), torch.tensor(labels)) > 0


@pytest.mark.parametrize("bins", [1, 2, 5, 10, 15])
def test_calibration_at_the_edges_of_bins(bins):
    "Confidences that lie on an edge belong to the bin below it, as in Guo et al."
    confidence = np.repeat(np.arange(5, 11) / 10, 3)
    p, labels = np.c_[confidence, 1 - confidence], np.tile([0, 0, 1], 6)
    edges, total = np.linspace(0, 1, bins + 1), 0
    for low, high in zip(edges, edges[1:]):
        inside = (low < confidence) & (confidence <= high)
        if inside.any(): total += inside.sum() * abs((labels[inside] == 0).mean() - confidence[inside].mean())
    assert calibration_error(p, labels, bins) == pytest.approx(100 * total / 18)
    assert reliability(p, labels, bins)["n"].sum() == 18


def test_accuracy_moves_by_better_less_worse():
    rng = np.random.default_rng(1)
    labels, before = rng.integers(0, 4, (2, 500))
    after = np.where(rng.random(500) < .3, rng.integers(0, 4, 500), before)
    moves = changed(before, after, labels)
    assert moves["changed"] == (before != after).sum() == moves["better"] + moves["worse"] + moves["still_wrong"]
    assert moves["better"] - moves["worse"] == (after == labels).sum() - (before == labels).sum()


@pytest.mark.parametrize("call, message", [
    (lambda: classification_report(np.zeros((2, 2)), [[0], [1]], "ab"), "expected one each per image"),
    (lambda: classification_report(np.full((2, 2), np.inf), [0, 1], "ab"), "2 of 2 images are NaN or inf"),
    (lambda: by_class([True, False], [0, 1], "ab"), "bool scores of shape"),
    (lambda: by_class([0, 1], [.5, 1], "ab"), "class 0.5 is not among the 2 classes"),
    (lambda: changed([0], [0, 1], [0, 1]), r"\(1,\) predictions before"),
    (lambda: calibration_error([[.5, .5]], [2]), "class 2 is not among the 2 classes"),
    (lambda: calibration_error([[50., 50.]], [0]), "expected probabilities that sum to 1"),
])
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message): call()
