"The ledger of runs under concurrent writers and bad files; tables with gaps and odd names; numbers read back"
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from logex_nb.report.figures import method_plot
from logex_nb.report.recorded import difference, if_recorded, value
from logex_nb.report.tables import (KEYS, append_runs, as_text, interval_table, paired, read_runs, show, summarise,
                                    write_results)

RESULTS = Path(__file__).parents[1] / "results"
TABLES = sorted(RESULTS.glob("*/*/*/table.csv"))
DIFFERENCES = [path for path in sorted(RESULTS.glob("*/*/*/differences.csv"))
               if {"difference", "metric", "low"} <= set(pd.read_csv(path, nrows=0))]


def runs(*rows): return pd.DataFrame([("e", "p", "d", arm, -1, *r) for arm, *r in rows], columns=[*KEYS, "value"])


def write_one_by_one(path, method):
    for i in range(8): append_runs(path, runs((method, i, "auroc", .1 * i)))


def test_two_writers_lose_nothing(tmp_path):
    path, fork = tmp_path / "results" / "runs.csv", multiprocessing.get_context("fork")
    writers = [fork.Process(target=write_one_by_one, args=(path, m)) for m in ("a", "b")]
    for w in writers: w.start()
    for w in writers: w.join()
    assert [w.exitcode for w in writers] == [0, 0]
    assert len(read_runs(path)) == 16
    assert sorted(os.listdir(path.parent)) == [".runs.csv.lock", "runs.csv"]


def test_values_survive_many_rewrites(tmp_path):
    value = 0.1 + 0.2
    for seed in range(5): append_runs(tmp_path / "runs.csv", runs(("m", seed, "auroc", value)))
    assert (read_runs(tmp_path / "runs.csv")["value"] == value).all()


def test_a_damaged_ledger_is_refused_and_kept(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("method,value\nm,1\n")
    with pytest.raises(ValueError, match="lack the columns"): append_runs(path, runs(("m", 0, "auroc", 1)))
    assert path.read_text() == "method,value\nm,1\n"


def test_unwritable_folder_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    table = summarise(runs(("m", 0, "auroc", 1.)))
    with pytest.raises(OSError): write_results(tmp_path / "file" / "e", table)
    assert (tmp_path / "file").read_text() == "in the way"


def test_gaps_and_odd_names_are_shown(tmp_path):
    frame = runs(("a_b & 50%", 0, "auroc", 90.), ("c|d", 0, "auroc", 80.), ("c|d", 0, "bacc_tail", 50.))
    table = summarise(frame)
    assert as_text(table).splitlines()[4].startswith("a_b & 50%")
    write_results(tmp_path, table)
    assert r"a\_b \& 50\%" in (tmp_path / "table.tex").read_text()
    widths = {line.replace(r"\|", "").count("|") for line in (tmp_path / "table.md").read_text().splitlines()}
    assert len(widths) == 1


def test_pairs_are_matched_by_fold_and_seed():
    rng, keys = np.random.default_rng(0), [(fold, seed) for fold in range(3) for seed in range(2)]
    values = {arm: rng.normal(60, 2, 6) for arm in "ab"}
    rows = [("e", "p", "d", arm, fold, seed, "f1", v) for arm in "ab" for (fold, seed), v in zip(keys, values[arm])]
    frame = pd.DataFrame(rows, columns=[*KEYS, "value"]).sample(frac=1, random_state=0)
    found, interval = paired(frame, "a", "b", "f1"), stats.ttest_rel(values["a"], values["b"]).confidence_interval()
    assert [found["low"], found["high"], found["n"]] == pytest.approx([*interval, 6])
    with pytest.raises(ValueError, match="share no fold and seed"):
        paired(frame[(frame["arm"] == "a") == (frame["fold"] == 0)], "a", "b", "f1")


@pytest.mark.parametrize("path", TABLES, ids=lambda p: "/".join(p.parts[-4:-1]))
def test_a_recorded_table_is_what_its_numbers_give(path, tmp_path):
    write_results(tmp_path, pd.read_csv(path))
    for name in ("table.md", "table.tex"):
        assert not path.with_name(name).exists() or path.with_name(name).read_text() == (tmp_path / name).read_text()


@pytest.mark.parametrize("path", TABLES, ids=lambda p: "/".join(p.parts[-4:-1]))
def test_a_sentence_has_the_numbers_of_the_table(path):
    profile, dataset, experiment = path.parts[-4:-1]
    table = pd.read_csv(path)
    shown = show(table)
    for row, metric in table[table.n > 0][["method", "metric"]].itertuples(index=False): # others were only published
        said = value(experiment, dataset, row, metric, profile=profile)
        cells = set(shown.loc[row])
        assert f"{said} ({said.n})" in cells and (not said.published or said.published in cells)


@pytest.mark.parametrize("path", DIFFERENCES, ids=lambda p: "/".join(p.parts[-4:-1]))
def test_a_sentence_has_the_intervals_of_the_table(path):
    profile, dataset, experiment = path.parts[-4:-1]
    table = pd.read_csv(path)
    shown = interval_table(table)
    for row, metric in table[["difference", "metric"]].itertuples(index=False):
        assert str(difference(experiment, dataset, row, metric, profile=profile)) in {cell.removesuffix(" *") for cell in shown.loc[row]}


def test_a_row_that_was_only_published_has_no_number_of_ours(tmp_path):
    folder = tmp_path / "mini/phantom/x"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text("{}")
    pd.DataFrame(dict(method=["Ours", "Theirs"], metric="f1", mean=[50., np.nan], published_mean=[np.nan, 80.])).to_csv(folder / "table.csv", index=False)
    assert value("x", "phantom", "Ours", "f1", results=tmp_path).mean == 50
    with pytest.raises(ValueError, match="'Theirs' of x/table.csv was not run"): value("x", "phantom", "Theirs", "f1", results=tmp_path)
    said = if_recorded(lambda: f"{value('x', 'phantom', 'Theirs', 'f1', results=tmp_path)}")
    assert "Not recorded in this copy: 'Theirs'" in said.data


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_a_bar_needs_three_seeds(seeds):
    a, b = ([(m, s, "auroc", 80. + s**2) for s in range(n)] for m, n in (("a", seeds), ("b", 4)))
    frame = runs(*a, *b)
    lines = [line.get_xydata() for line in method_plot(summarise(frame), "auroc", frame.assign(method=frame.arm)).axes[0].lines]
    bars = [xy[:, 0] for xy in lines if len(xy) == 2 and xy[0, 1] == xy[1, 1] and np.isfinite(xy).all()]
    wanted = [frame[frame.arm == m]["value"] for m in "ab"]
    assert np.allclose(bars, [(x.mean() - x.std(), x.mean() + x.std()) for x in wanted if len(x) > 2])
