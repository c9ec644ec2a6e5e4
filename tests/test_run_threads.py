"The number of threads belongs to the profile: the number of cores changes no file"
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from logex_nb.core import sha256
from logex_nb.run.study import Study
from logex_nb.run.workflow import Stage, snakemake_arguments

ROOT = Path(__file__).parent.parent
MADE = ROOT / "runs/smoke/phantom/logex"
STUDY = Study("adpm", "smoke", "phantom")


def test_a_stage_has_the_threads_of_its_profile():
    features, prior = Stage(STUDY, "features"), Stage(STUDY, "prior", ("{arm}",))
    assert (features.threads, prior.threads) == (STUDY.numbers["threads"]["features"], 1) and features.threads > 1
    assert f"--threads {features.threads}" in features.command and "--threads" not in prior.command


@pytest.mark.parametrize("threads, message", [
    ({"featurse": 2}, "unknown stage 'featurse' in [threads] of profile 'smoke': choose from ["),
    ({"features": 0}, "features in [threads] of profile 'smoke' is 0: give a whole number, 1 or more"),
    ({"features": "all"}, "features in [threads] of profile 'smoke' is 'all': give a whole number, 1 or more")])
def test_threads_that_are_none(monkeypatch, threads, message):
    numbers = STUDY.numbers | dict(threads=threads)
    monkeypatch.setattr(Study, "numbers", property(lambda self: numbers))
    with pytest.raises(ValueError) as error: snakemake_arguments(STUDY, ["datasets"])
    assert message in str(error.value)


def test_threads_of_one_dataset_are_refused(monkeypatch):
    numbers = STUDY.numbers | dict(dataset=dict(phantom=dict(threads=dict(features=1))))
    monkeypatch.setattr(Study, "numbers", property(lambda self: numbers))
    with pytest.raises(ValueError, match=r"unknown section \[dataset.phantom.threads\]"): snakemake_arguments(STUDY, ["datasets"])


COUNT = dict(cells=[
    dict(cell_type="code", execution_count=None, id="a", metadata=dict(tags=["parameters"]), outputs=[], source='profile: str = "smoke"'),
    dict(cell_type="code", execution_count=None, id="b", metadata={}, outputs=[],
         source="import json, torch\nfrom pathlib import Path\nPath('out').mkdir(exist_ok=True)\nPath('out/record.json').write_text(json.dumps(torch.get_num_threads()))")],
    metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")), nbformat=4, nbformat_minor=5)


@pytest.mark.parametrize("asked, offered", [(1, 2), (2, 1)])
def test_a_kernel_computes_with_the_threads_that_it_was_given(tmp_path, asked, offered):
    "Whatever Snakemake offers, by the number of cores"
    (tmp_path / "count.ipynb").write_text(json.dumps(COUNT))
    done = subprocess.run([Path(sys.executable).parent / "logex_run", "count.ipynb", "out", "--threads", str(asked)], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | dict(OMP_NUM_THREADS=str(offered), PYTHONPATH=str(ROOT)), timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/record.json").read_text()) == asked
    assert json.loads((tmp_path / "out/code.json").read_text())["parameters"].get("threads", "1") == str(asked)


def made(runs: Path) -> dict[str, str]: # Digest of each file by its path below `runs`
    "Weights, arrays and images; not what says how long it took"
    files = [p for kind in ("*.safetensors", "*.npy", "images/**/*.png") for p in runs.rglob(kind)]
    digests = {p.relative_to(runs).as_posix(): sha256(p) for p in files if "remembered" not in p.parts}
    for p in runs.rglob("outputs.npz"):
        with np.load(p) as file: digests[p.relative_to(runs).as_posix()] = sha256(b"".join(file[k].tobytes() for k in sorted(file.files)))
    return digests


@pytest.mark.skipif(not (MADE / "classifier/logex/seed0/record.json").exists(), reason="the chain at smoke size has not run here")
def test_the_number_of_cores_changes_no_file(tmp_path, checkout):
    "From the data to the classifiers of two rows: on one core what the chain made on as many as there are, on two where there is one"
    checkout()
    cores = "1" if os.cpu_count() > 1 else "2"
    done = subprocess.run([Path(sys.executable).parent / "logex_reproduce", "--target", "logex_table2", "--rows", "ce,logex", "--cores", cores],
                          cwd=tmp_path, env=os.environ | dict(PYTHONPATH=str(tmp_path)), capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    found = made(tmp_path / "runs/smoke/phantom/logex")
    assert {"data", "base", "lora", "images", "classifier"} <= {Path(p).parts[0] for p in found}
    chain = made(MADE)
    assert found.keys() <= chain.keys() and [p for p in found if found[p] != chain[p]] == []
