"Long tails without halves, folds, and what leaks when single images are dealt"
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from logex_nb.data.protocols import Protocol, at_fold, leaked, leaked_by_class, make_split
from logex_nb.data.sources import Dataset, Phantom
from test_data_hostile import fails

FOLDS, NATURAL = Protocol(kind="folds"), Protocol(kind="natural")


def dataset(table, hashes=None):
    "Images that nobody reads; `hashes` by their names"
    digest = None if hashes is None else lambda rows: [hashes.get(i, i) for i in rows.image]
    return Dataset("toy", sorted(set(table.label)), table, lambda rows, size: None, digest=digest)


def patients(sizes, per_group=4, **columns):
    "`sizes` images of each class, `per_group` of each patient"
    rows = [(f"{label}/{i}", label, f"{label}{i // per_group}") for label, n in sizes.items() for i in range(n)]
    return pd.DataFrame(rows, columns=["image", "label", "group"]).assign(**columns)


@pytest.mark.parametrize("ratio, classes", [(2, ()), (50, ()), (50, ("nerves", "vessels", "dermis")), (1e6, ())])
def test_exponential_tail(ratio, classes):
    data = Phantom(head_per_class=500, imbalance=ratio, classes=classes).open()
    n = len(data.classes)
    wanted = [max(10, round(500 * ratio ** (-k / (n - 1)))) for k in range(n)]
    assert data.table.label.value_counts()[data.classes].tolist() == wanted
    split = make_split(data, NATURAL)
    assert set(split.part) == {""} and leaked(split) == 0
    head = make_split(data, replace(NATURAL, head=1))
    assert set(head.label[head.part == "head"]) == {data.classes[0]}


@pytest.mark.parametrize("kind", ["folds", "natural", "shots"])
def test_groups_leak_only_when_single_images_are_dealt(kind):
    data = dataset(patients(dict(naevus=200, melanoma=80, vessels=40)))
    cfg = Protocol(kind=kind, head=1, shots=4, val_head=4, val_tail=4, test=4)
    for grouped in (True, False):
        split = make_split(data, replace(cfg, grouped=grouped))
        if kind == "folds": split = at_fold(split, 1)
        assert (leaked(split) == 0) == grouped
        assert split.set_index("image").group.equals(data.table.set_index("image").group[split.image])


def test_leaked_is_what_counting_gives():
    rng = np.random.default_rng(0)
    split = pd.DataFrame(dict(label=rng.choice(["a", "b", "c"], 500), group=rng.integers(0, 300, 500).astype(str),
                              split=rng.choice(["train", "val", "test"], 500, p=[.5, .2, .3])))
    seen = set(split.group[split.split == "train"])
    test = split[split.split == "test"]
    assert leaked(split) == pytest.approx(np.mean([g in seen for g in test.group]))
    for row in leaked_by_class(split).itertuples():
        groups = test.group[test.label == row.label]
        assert (row.test, row.leaked) == (len(groups), sum(g in seen for g in groups))


def test_every_image_is_tested_once_and_validation_may_be_left_out():
    split = make_split(dataset(patients(dict(naevus=200, vessels=40))), FOLDS)
    tested = pd.concat([at_fold(split, k).query("split == 'test'") for k in range(5)])
    assert sorted(tested.image) == sorted(split.image)
    assert (at_fold(split, 2, validate=False).split != "train").mean() == pytest.approx(.2, abs=.02)
    assert (at_fold(split, 2).split == "val").mean() == pytest.approx(.2, abs=.02)


# ---- lists that come with the data

def test_official_folds_are_kept():
    table = patients(dict(naevus=60, vessels=30))
    table["fold"] = pd.factorize(table.group)[0] % 5
    split = make_split(dataset(table), FOLDS)
    assert split.set_index("image").fold.to_dict() == table.set_index("image").fold.to_dict()


@pytest.mark.parametrize("change, folds, message", [
    (lambda t: t.fold, 4, "toy comes with 5 folds, and `folds` is 4: set it to 5"),
    (lambda t: t.fold.replace(3, 2), 5, "fold 3 of toy is empty"),
    (lambda t: t.fold.mask(t.index == 0, 1), 5, "group 'naevus0' is in folds [0, 1], 1 groups cross"),
])
def test_official_folds_that_do_not_fit(change, folds, message):
    table = patients(dict(naevus=60, vessels=40))
    table["fold"] = pd.factorize(table.group)[0] % 5
    with fails(message): make_split(dataset(table.assign(fold=change)), replace(FOLDS, folds=folds))


def test_crossing_folds_pass_for_comparison():
    table = patients(dict(naevus=60, vessels=40))
    table["fold"] = table.index % 5
    with fails("set `grouped` to false"): make_split(dataset(table), FOLDS)
    assert leaked(at_fold(make_split(dataset(table), replace(FOLDS, grouped=False)), 0)) == 1


@pytest.mark.parametrize("grouped", [True, False])
def test_a_list_without_validation(grouped):
    table = patients(dict(naevus=300, vessels=100))
    table["split"] = np.where(pd.factorize(table.group)[0] % 10 < 7, "train", "test")
    split = make_split(dataset(table), replace(NATURAL, grouped=grouped, val_share=.14))
    assert set(split.image[split.split == "test"]) == set(table.image[table.split == "test"])
    assert (split.split == "val").mean() == pytest.approx(.14, abs=.02)
    assert leaked(split) == 0 # the list kept groups together


def test_a_list_without_training():
    with fails("no image in split 'train'"):
        make_split(dataset(patients(dict(naevus=30, vessels=20), split="test")), NATURAL)


# ---- bad input

def test_fewer_groups_than_folds():
    data = dataset(patients(dict(naevus=60, vessels=16)))
    with fails("class 'vessels' has 4 groups, too few for 5 folds"): make_split(data, FOLDS)
    assert len(make_split(data, replace(FOLDS, grouped=False))) == 76


@pytest.mark.parametrize("n", [0, 1])
def test_a_class_with_hardly_a_training_image(n):
    table = patients(dict(naevus=50, vessels=10), per_group=1)
    table["fold"] = table.index % 5
    rare = table.index[table.label == "vessels"]
    table.loc[rare, "fold"] = [3] * n + [0] * (10 - n)
    split = make_split(dataset(table), FOLDS)
    at_fold(split, 3)
    with fails(f"class 'vessels' has {n} training images, at least 2"): at_fold(split, 0)
    listed = table.assign(split=np.where(table.fold == 0, np.where(table.index % 2, "val", "test"), "train"))
    with fails("class 'vessels' has"): make_split(dataset(listed.drop(columns="fold")), NATURAL)


@pytest.mark.parametrize("grouped", [True, False])
def test_copies_in_two_folds(grouped):
    table, cfg = patients(dict(naevus=60, vessels=40)), replace(FOLDS, grouped=grouped)
    split = make_split(dataset(table), cfg)
    twins = split.groupby("fold").image.first().tolist()[:2]
    data = dataset(table, dict.fromkeys(twins, "one"))
    if grouped:
        with fails("are one and the same, in folds [0, 1]"): make_split(data, cfg)
    else:
        with pytest.warns(UserWarning, match="one and the same"): make_split(data, cfg)


@pytest.mark.parametrize("shares, message", [
    (dict(test_share=.7), "a test share of 0.70"), (dict(test_share=.6, val_share=.3), "a val share of 0.75"),
    (dict(test_share=0), "test_share 0"), (dict(test_share=.5, val_share=.5), "their sum below 1")])
def test_shares(shares, message):
    with fails(message): make_split(dataset(patients(dict(naevus=60, vessels=40))), replace(NATURAL, **shares))


def test_no_test_images():
    with fails("choose one with `at_fold`"): leaked(make_split(dataset(patients(dict(naevus=60, vessels=40))), FOLDS))
