"A paper is a folder: one that is added is known everywhere, and its table is made by the ordinary command"
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
from nbformat.v4 import new_code_cell, new_notebook

BIN, ROOT = Path(sys.executable).parent, Path(__file__).parent.parent
STUDY = """
title = "A toy"
position = 9
main = "table1"
demo = { targets = ["table1"], rows = "" }

[stages]
count = "Images of each class"

[targets.table1]
title = "Table 1: how many images?"

[study]
results = "results"
rows = []
"""
SIZES = """
[protocol]
kind = "natural"
size = 16
"""
RULES = """
from logex_nb.run.workflow import Stage, study_of

study = study_of(config)
data, count, table1 = (Stage(study, name) for name in ("data", "count", "table1"))

module shared_data:
    snakefile: "../../stages/data.smk"
    config: config

use rule * from shared_data

rule all:
    default_target: True
    input: table1.record

rule count:
    input: data.record
    output: count.outputs
    params: made_of=lambda w: count.made_of(w)
    shell: count.command

rule table1:
    input: count.record
    output: table1.outputs
    params: made_of=lambda w: table1.made_of(w)
    shell: table1.command
"""
OPEN = "from logex_nb.core import Run\nfrom logex_nb.run.study import Study\nstudy = Study('toy', profile, dataset)"
COUNT = """from logex_nb.data.tiles import load_tiles
folder, tiles = study.folder("count"), load_tiles(study.folder("data"))
with Run(folder, "count", {}) as run:
    tiles.table.groupby("label").size().rename("images").to_csv(folder / "count.csv")"""
TABLE = """import pandas as pd
from logex_nb.report.tables import summarise, write_results
counts = pd.read_csv(study.folder("count") / "count.csv")
runs = counts.rename(columns={"label": "arm", "images": "value"}).assign(paper="toy", profile=profile, dataset=study.name, fold=-1, seed=0, metric="images")
with Run(study.folder("table1"), "table1", {}) as run: write_results(study.folder("table1"), summarise(runs), runs, study.ledger)"""


def notebook(path: Path, *cells: str) -> None:
    parameters = new_code_cell('profile: str = "smoke" # Size\ndataset: str = "phantom" # Dataset', metadata=dict(tags=["parameters"]))
    spec = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))
    nbformat.write(new_notebook(cells=[parameters, *map(new_code_cell, (OPEN, *cells))], metadata=spec), path)


def test_a_folder_is_enough(tmp_path):
    for path in ROOT.iterdir():
        if path.name in ("nbs", "profiles", "logex_nb"): shutil.copytree(path, tmp_path / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.name in ("Snakefile", "settings.ini", "Makefile"): shutil.copy(path, tmp_path)
    toy = tmp_path / "nbs/papers/toy"
    (toy / "profiles").mkdir(parents=True)
    (toy / "profiles/smoke.toml").write_text(SIZES)
    (toy / "study.toml").write_text(STUDY), (toy / "workflow.smk").write_text(RULES)
    notebook(toy / "count.ipynb", COUNT), notebook(toy / "table1.ipynb", TABLE)
    call = lambda *words: subprocess.run(words, cwd=tmp_path, env=os.environ | dict(PYTHONPATH=str(tmp_path)), capture_output=True, text=True)
    made = call(BIN / "logex_reproduce", "--target", "toy_table1", "--cores", "2")
    assert not made.returncode, made.stdout[-3000:] + made.stderr[-3000:]
    table = pd.read_csv(tmp_path / "results/smoke/phantom/toy_table1/table.csv")
    assert len(table) == 16 and (table["mean"] > 0).all()
    assert set(pd.read_csv(tmp_path / "results/runs.csv").paper) == {"toy"}
    again = call(BIN / "logex_reproduce", "--target", "toy", "--plan")
    assert "Nothing to be done" in again.stdout + again.stderr
    assert "toy_table1" in call("make", "help").stdout
    assert "choose from" in (wrong := call(BIN / "logex_reproduce", "--target", "table9")).stderr and "'toy_table1'" in wrong.stderr
