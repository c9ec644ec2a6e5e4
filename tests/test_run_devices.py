"Every stage that computes on a device has one for itself, and its rule says so"
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from logex_nb.run.devices import uses_device
from logex_nb.run.study import Study
from logex_nb.run.workflow import Stage

BIN, ROOT = Path(sys.executable).parent, Path(__file__).parent.parent
RULES = [(path, rule) for folder in ("stages", "papers/*") for path in sorted((ROOT / "nbs").glob(f"{folder}/*.smk"))
         for rule in re.split(r"^(?=rule |use rule )", path.read_text(), flags=re.M) if re.search(r"^    shell: \w+\.command", rule, re.M)]


def notebook_of(path: Path, rule: str) -> Path:
    name = re.search(r"^    shell: (\w+)\.command", rule, re.M)[1]
    defined = re.search(rf'^{name} = (?:stage\(|Stage\(study, )"(\w+)"', path.read_text(), re.M)
    return next(p for home in (path.parent, ROOT / "nbs/stages") if (p := home / f"{defined[1] if defined else name}.ipynb").exists())


@pytest.mark.parametrize("path, rule", RULES, ids=lambda x: x.parent.name if isinstance(x, Path) else x.split(":")[0])
def test_a_rule_asks_for_a_device_if_its_notebook_uses_one(path, rule):
    assert bool(re.search(r"^    resources: gpu=(1|\w+\.devices)$", rule, re.M)) == uses_device(notebook_of(path, rule))


STAGE = """
import os, time
from pathlib import Path
Path(name).mkdir(exist_ok=True)
Path(name, "device").write_text(os.environ["CUDA_VISIBLE_DEVICES"]) # for "cuda"
while not Path("go on").exists(): time.sleep(.1)
Path(name, "record.json").write_text("{}")
"""


@pytest.fixture
def stage(tmp_path):
    "Begins a stage on one of two devices"
    cells = [new_code_cell('name: str = ""', metadata=dict(tags=["parameters"])), new_code_cell(STAGE)]
    spec = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))
    nbformat.write(new_notebook(cells=cells, metadata=spec), tmp_path / "toy.ipynb")
    environment = os.environ | dict(CUDA_VISIBLE_DEVICES="4,2", TMPDIR=str(tmp_path), PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1")
    begun = []

    def begin(name: str) -> subprocess.Popen:
        begun.append(subprocess.Popen([BIN / "logex_run", "toy.ipynb", name, f"name={name}"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True))
        return begun[-1]

    yield begin
    for process in begun: process.kill()


def device(tmp_path: Path, name: str, process: subprocess.Popen) -> str:
    while not (place := tmp_path / name / "device").exists() or not place.read_text():
        assert process.poll() is None
    return place.read_text()


def test_a_third_stage_waits_until_one_of_two_is_killed(stage, tmp_path):
    first, second = stage("first"), stage("second")
    assert {device(tmp_path, "first", first), device(tmp_path, "second", second)} == {"4", "2"}
    third = stage("third")
    assert third.stdout.readline() == "waits for a device: all of 4, 2 are in use\n"
    assert not (tmp_path / "third").exists()
    first.kill()
    assert device(tmp_path, "third", third) == device(tmp_path, "first", third)
    (tmp_path / "go on").touch()
    assert second.wait(timeout=60) == third.wait(timeout=60) == 0


def test_a_stage_gets_no_more_devices_than_a_run(tmp_path, monkeypatch):
    "The profile asks for three, the run has two, and the command is told of two"
    monkeypatch.setattr(Study, "devices", lambda self, stage: 3)
    asked = re.search(r"--devices \S+", Stage(Study("logex", "smoke", "phantom"), "lora").command)[0]
    (tmp_path / "Snakefile").write_text(f'rule toy:\n    output: "said"\n    resources: gpu=3\n    shell: "echo {asked} > {{output}}"\n')
    command = [sys.executable, "-m", "snakemake", "said", "--cores", "1", "--resources", "gpu=2", "--quiet", "all"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "said").read_text() == "--devices 2\n"
