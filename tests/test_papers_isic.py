"Everything that learns sees the training images of its fold, and no others"
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from logex_nb.data.protocols import fold_of
from logex_nb.data.tiles import load_tiles
from logex_nb.run.study import Study
from logex_nb.run.workflow import snakemake_arguments

ROOT = Path(__file__).parent.parent
RUNS = [p for p in (ROOT / "runs").glob("*/*/isic") if (p / "data" / "record.json").exists()]
LEARNED = [p for run in RUNS for p in sorted(run.rglob("learned.csv"))]
PAINTED = [p for run in RUNS for p in sorted((run / "paintings").glob("*/*/manifest.csv")) if "-earlier-" not in p.parent.name]
needs_a_run = pytest.mark.skipif(not RUNS, reason="the chain at smoke size has not run here")


def table_of(file):
    "All images, with the split of the fold in the file's path"
    fold = next(part for part in file.parts if part[:-1] in ("group", "image"))
    return fold, fold_of(load_tiles(next(p for p in file.parents if p.name == "isic") / "data"), fold).table


@needs_a_run
def test_there_is_something_to_check():
    assert {p.relative_to(run).parts[0] for run in RUNS for p in run.rglob("learned.csv")} == {"masks", "painter", "classifier"}
    assert PAINTED


@needs_a_run
@pytest.mark.parametrize("file", LEARNED, ids=lambda p: "-".join(p.parts[-6:-1]))
def test_what_was_learned_from_is_training(file):
    fold, table = table_of(file)
    aside, seen = table[table.split != "train"], pd.read_csv(file, dtype=str, keep_default_na=False)
    assert not set(seen.image) & set(aside.image)
    if "group" not in seen: return # photographs of another archive
    assert set(seen.image) <= set(table.image[table.split == "train"])
    if fold.startswith("group"): assert not set(seen.group) & set(aside.group)


@needs_a_run
@pytest.mark.parametrize("file", PAINTED, ids=lambda p: "-".join(p.parts[-4:-1]))
def test_no_image_of_a_test_fold_is_painted_into(file):
    _, table = table_of(file)
    assert set(pd.read_csv(file, dtype=str, keep_default_na=False).source) <= set(table.image[table.split == "train"])


@needs_a_run
@pytest.mark.parametrize("run", RUNS, ids=lambda p: p.parts[-2])
def test_every_arm_takes_the_same_number_of_steps(run):
    settings = [json.loads(p.read_text())["config"]["training"] for p in run.glob("classifier/*/*/*/record.json")]
    assert len({(s["epochs"], s["updates"]) for s in settings}) == 1 and settings[0]["updates"]


def test_paintings_are_judged_by_the_classifier_that_was_waited_for():
    arguments = snakemake_arguments(Study("isic", "smoke", "phantom_skin"), ["table"], seeds="3,4", plan=True)
    done = subprocess.run([sys.executable, "-m", "snakemake", *arguments, "--printshellcmds"], cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    judged = re.findall(r"logex_run \S+/scores\.ipynb .*", done.stdout)
    assert judged and all(" seed=3 " in command for command in judged), done.stdout
