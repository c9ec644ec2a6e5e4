"The ledger of runs under concurrent writers and bad files; tables with gaps and odd names"
import multiprocessing
import os

import pandas as pd
import pytest
from logex_nb.report.tables import KEYS, append_runs, as_text, read_runs, summarise, write_results

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
    assert os.listdir(path.parent) == ["runs.csv"]


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
