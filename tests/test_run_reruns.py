"An edit makes those stages run again whose result it can change, and no others: dry runs in a copy after the chain at smoke size"
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from logex_nb.run.study import Study
from logex_nb.run.workflow import snakemake_arguments

ROOT = Path(__file__).parent.parent
CHAIN = ROOT / "runs" / "results" / "smoke" / "phantom" / "logex_cost" / "record.json"
pytestmark = pytest.mark.skipif(not CHAIN.exists(), reason="the chain at smoke size has not run here")
SHARED = {"data", "base", "autoencoder", "lora"}


@pytest.fixture
def copy(tmp_path):
    "The repository as it is now, its runs by links"
    for path in ROOT.iterdir():
        if path.name in ("logex_nb", "nbs", "profiles"): shutil.copytree(path, tmp_path / path.name, ignore=shutil.ignore_patterns("*.png", "__pycache__"))
        elif path.name == ".snakemake": shutil.copytree(path / "metadata", tmp_path / ".snakemake" / "metadata")
        elif path.name in ("runs", "results", "Snakefile", "settings.ini"): (tmp_path / path.name).symlink_to(path)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, f"{old!r} is not in {path.name}"
    path.write_text(text.replace(old, new, 1))


def planned(folder: Path) -> dict[str, int]: # Rule to number of jobs
    done = subprocess.run([sys.executable, "-m", "snakemake", *snakemake_arguments(Study("logex", "smoke", "phantom"), ["all"], plan=True)], cwd=folder,
                          env=os.environ | dict(PYTHONPATH=str(folder)), capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.M) if rule not in ("all", "total")}


def test_words_change_nothing(copy):
    "A docstring, a comment and a blank line in every module, prose and figures of a stage's page"
    for path in (copy / "logex_nb").rglob("*.py"):
        if path.name[0] != "_": path.write_text(re.sub(r'^    "(\w.*)"$', r'    "Reworded: \1"', path.read_text() + "\n# A remark\n", flags=re.M))
    assert '"Reworded: ' in (copy / "logex_nb/core.py").read_text()
    edit(copy / "nbs/stages/classifier.ipynb", "What does a classifier learn", "What is it that a classifier learns")
    edit(copy / "nbs/stages/classifier.ipynb", "figsize=(11, 2.2)", "figsize=(9, 2)")
    assert planned(copy) == {}


def test_a_new_score_is_for_the_tables_of_scores(copy):
    edit(copy / "logex_nb/detect/scores.py", "def energy(", "def doubled(logits): return 2 * logits.max(-1)\n\n\ndef energy(")
    assert set(planned(copy)) == {"table1", "table3"}


def test_a_new_setting_with_a_default_changes_nothing(copy):
    edit(copy / "logex_nb/classify/training.py", "    epochs: int = ", "    patience: int = 0 # Epochs without progress before a training ends\n    epochs: int = ")
    assert planned(copy) == {}


def test_a_changed_default_counts_where_it_is_used(copy):
    "The profile sets the number of epochs, and not the decay"
    edit(copy / "logex_nb/classify/training.py", "    epochs: int = ", "    epochs: int = 1")
    assert planned(copy) == {}
    edit(copy / "logex_nb/classify/training.py", "    weight_decay: float = ", "    weight_decay: float = 1")
    assert {"classifier", "guide"} <= set(planned(copy)) and not SHARED & set(planned(copy))


def test_a_changed_loss_trains_classifiers(copy):
    edit(copy / "logex_nb/classify/losses.py", "def focal(", "def focal(*_): return 0\n\n\ndef focal(")
    jobs = planned(copy)
    assert jobs["classifier"] == 11 and jobs["guide"] == 2 and not SHARED & set(jobs)


def test_a_changed_number_of_one_arm_trains_that_arm(copy):
    "Draws and tuning train it themselves"
    edit(copy / "nbs/papers/logex/arms.toml", "add = [{ repeat = 10 }]", "add = [{ repeat = 9 }]")
    assert planned(copy) == {"classifier": 1, "table2": 1, "cost": 1, "draws": 1, "tuning": 1}


def test_a_label_is_for_the_tables(copy):
    "Nothing that trains depends on how a table calls it"
    edit(copy / "nbs/papers/logex/arms.toml", 'label = "Oversampling"', 'label = "Repeated"')
    jobs = set(planned(copy))
    assert "table2" in jobs and not jobs & {"classifier", "guide", *SHARED}


def plan(folder: Path, *arguments: str) -> str: # What it says
    done = subprocess.run([Path(sys.executable).parent / "logex_reproduce", "--plan", *arguments], cwd=folder, env=os.environ | dict(PYTHONPATH=str(folder)), capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def test_a_stage_that_was_copied_here_is_compared(copy):
    "Snakemake remembers nothing of it, and would take it as it is; what was not asked for stays as it is"
    shutil.rmtree(copy / ".snakemake")
    assert "othing to be done" in plan(copy, "--target", "logex_figure4", "--seeds", "0,1")
    edit(copy / "nbs/papers/logex/arms.toml", "add = [{ repeat = 10 }]", "add = [{ repeat = 9 }]")
    said = plan(copy, "--target", "logex_table2")
    why = said.partition("made again, with what follows from it:")[2]
    assert "classifier oversampling seed0: arm" in why and not any(f"{stage}:" in why for stage in SHARED), said
    assert re.search("^table2 ", said, re.M), said


def test_a_record_that_was_put_back_makes_its_table_again(copy):
    results = copy / "runs" / "results"
    for name in ("runs", "results"):
        real = (copy / name).resolve()
        (copy / name).unlink()
        shutil.copytree(real, copy / name, ignore=shutil.ignore_patterns("*.npy", "*.safetensors"), symlinks=True)
    for listing in (copy / "runs/smoke/phantom/logex").rglob("files.json"): # weights and images were left out
        if listing.parent.name != "table2": listing.unlink()
    for code in (copy / "runs/smoke/phantom/logex").rglob("code.json"):
        if not (code.parent / "files.json").exists(): (code.parent / "files.json").write_text("{}")
    record = results / "smoke/phantom/logex_table2/record.json"
    record.write_text(record.read_text() + " ")
    said = plan(copy, "--target", "logex_table2")
    assert "table2: results/smoke/phantom/logex_table2/record.json is not what was made" in said and re.search("^table2 ", said, re.M), said
    assert "will be made again when it is asked for" in plan(copy, "--target", "logex_figure4")
