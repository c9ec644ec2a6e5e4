"Metrics under ties, other input types and permutation, against brute force written out"
import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from logex_nb.detect.metrics import aupr, bootstrap_ci, fpr_at_tpr, tail_report
from logex_nb.detect.scores import msp
from logex_nb.detect.tail import auroc, p_tail, tail_summary


@pytest.mark.parametrize("levels", [2, 3, 7, 10**6])
@pytest.mark.parametrize("n", [2, 21, 101, 264])
def test_fpr_both_readings_with_ties(n, levels):
    rng = np.random.default_rng(n * levels)
    for share in (.2, .5):
        is_ood = np.arange(n) < max(1, int(share * n))
        score = rng.integers(0, levels, n) / levels + .3 * is_ood
        S = -score
        t = np.quantile(S[~is_ood], .05)
        # an interpolated threshold differs in its last bit between S and -S: allow only ties at it
        exact = (S[is_ood] >= t - 1e-12).mean()
        assert fpr_at_tpr(score, is_ood, positive="id") in ((S[is_ood] >= t).mean(), exact)
        reach = [t for t in score if (score[is_ood] >= t).mean() >= .95]
        best = min((score[~is_ood] >= t).mean() for t in reach)
        assert fpr_at_tpr(score, is_ood, positive="ood") == pytest.approx(best)


def test_order_and_type_of_input_do_not_matter():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(60, 5)).astype(np.float32)
    labels, order = np.arange(60) % 5, rng.permutation(60)
    report = tail_report(logits, labels, [3, 4])
    for same in (tail_report(logits[order], labels[order], [4, 3]),
                 tail_report(torch.tensor(logits), torch.tensor(labels), (3, 4)),
                 tail_report(logits.tolist(), labels.tolist(), np.array([3, 4]))):
        assert same == pytest.approx(report)
    assert all(0 <= v <= 100 for v in report.values())


def test_turning_the_sign_swaps_the_readings():
    rng = np.random.default_rng(1)
    is_ood = np.arange(300) < 120
    score = rng.normal(size=300) + is_ood
    assert auroc(-score, is_ood) == pytest.approx(1 - auroc(score, is_ood))
    assert aupr(-score, ~is_ood, positive="ood") == pytest.approx(aupr(score, is_ood, positive="id"))


def test_strata_keep_every_class_in_every_resample():
    labels = np.repeat(np.arange(8), 2)
    logits = np.eye(8)[labels] + np.random.default_rng(0).normal(size=(16, 8))
    low, high = bootstrap_ci(lambda z, y: tail_report(z, y, [7])["bacc_head"], logits, labels, strata=labels, n=50)
    assert low <= tail_report(logits, labels, [7])["bacc_head"] <= high


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused_everywhere(bad):
    logits = np.zeros((4, 3))
    logits[2, 1] = bad
    for call in (lambda: p_tail(logits, [2]), lambda: msp(logits), lambda: tail_report(logits, [0, 1, 2, 2], [2]),
                 lambda: auroc([0, 1, bad], [0, 1, 1]), lambda: fpr_at_tpr([0, 1, bad], [0, 1, 1], positive="id")):
        with pytest.raises(ValueError, match="NaN or inf"): call()


def test_a_tail_without_names_has_the_accuracy_of_a_classifier_of_the_head():
    rng = np.random.default_rng(2)
    labels = np.arange(90) % 5
    logits = rng.normal(size=(90, 5)) + 2 * np.eye(5)[labels] - [3, 0, 3, 0, 0]  # most head images are called tail
    in_head = np.isin(labels, [0, 2])
    right = logits[in_head][:, [0, 2]].argmax(1) == labels[in_head] // 2
    recall = [right[labels[in_head] == k].mean() for k in (0, 2)]
    report = tail_report(logits, labels, [1, 3, 4], tail_named=False)
    assert report["bacc_head"] == pytest.approx(100 * np.mean(recall))
    assert report["bacc_head"] > tail_report(logits, labels, [1, 3, 4])["bacc_head"]
    assert "bacc_tail" not in report
    assert report == report | tail_summary(logits, labels, [1, 3, 4], tail_named=False)


def imported(path):
    "Modules of the package that a file imports, as 'detect.tail'"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            room = node.module if node.level == 2 else f"{path.parent.name}.{node.module}"
            yield from [room] if "." in room else [f"{room}.{alias.name}" for alias in node.names]


def test_training_imports_no_score_and_no_metric_but_those_that_choose_an_epoch():
    "So that a new one of either makes no network train again"
    package = Path(__file__).parent.parent / "logex_nb"
    found = {name for path in (package / "classify").glob("*.py") for name in imported(path)}
    assert "classify.losses" in found
    assert {name for name in found if name.startswith("detect")} == {"detect.tail"}
    assert not list(imported(package / "detect" / "tail.py"))
