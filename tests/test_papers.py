"What the papers' notebooks promise, read from their source and from the chain at smoke size where it has run"
import ast
import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from logex_nb.report.published import published
from logex_nb.run.study import Study

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted([*(ROOT / "nbs" / "papers").rglob("*.ipynb"), *(ROOT / "nbs" / "stages").glob("*.ipynb")])
IMAGES = ROOT / "runs" / "smoke" / "phantom" / "logex" / "images" / "logex" / "set0"


def calls(notebook, name):
    for cell in nbformat.read(notebook, 4).cells:
        if cell.cell_type != "code": continue
        for node in ast.walk(ast.parse("\n".join(line for line in cell.source.splitlines() if not line.startswith("%")))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name: yield ast.unparse(node)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_classifier_is_asked_for_its_classes(notebook):
    "One of another dataset with as many classes would otherwise guide or judge unnoticed"
    for call in calls(notebook, "load_classifier"): assert "tiles.classes" in call


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_generated_images_are_read_at_the_size_of_real_ones(notebook):
    "Stable Diffusion draws 512 pixels a side, the paper's tiles have 395"
    for call in calls(notebook, "read_synthetic"): assert "size=tiles.images.shape[-2]" in call


def test_classifiers_and_images_are_loaded_at_all():
    assert {p.stem for p in NOTEBOOKS if list(calls(p, "read_synthetic"))} >= {"oracle", "quality", "scores", "selection"}
    assert {p.stem for p in NOTEBOOKS if list(calls(p, "load_classifier"))} >= {"images", "oracle", "ablation", "figure2", "quality"}


@pytest.mark.skipif(not (IMAGES / "record.json").exists(), reason="the chain at smoke size has not run here")
def test_images_that_never_reach_the_stop_are_counted():
    manifest, metrics = pd.read_csv(IMAGES / "manifest.csv"), json.loads((IMAGES / "record.json").read_text())["metrics"]
    assert metrics["images"] == len(manifest)
    assert metrics["stopped_early"] == pytest.approx(manifest.stopped_early.mean())
    assert not manifest.stopped_early.all() # at this size some never do, and are kept


def test_the_controls_of_adpm_name_ways_that_are_drawn():
    study = Study("adpm", "smoke", "phantom")
    blocks = [*study.about["controls"].values(), study.about["ablation"]]
    rows = {row for block in blocks for row in [*block["rows"], *(row for pair in block["pairs"] for row in pair)]}
    rows |= {f"{arm}/{way}" for way in study.about["ablation"]["ways"] for arm in study.about["ablation"]["rows"] if way and arm != "prior"}
    for arm, way in (row.split("/") for row in rows if "/" in row): assert way in study.training(arm).further, f"{arm}/{way}"
    assert {row.partition("/")[0] for row in rows} <= set(study.arms)


def test_published_numbers_that_a_study_names_exist():
    named = Study("adpm", "smoke", "phantom").about["published"]
    for table in [*named["comparison"].values(), *named["by_class"].values()]: assert len(published(table))
    assert set(named["datasets"].values()) <= set(published("adpm_table1").method)
    assert all(" " in metric for table in named["by_class"].values() for metric in published(table).metric) # 'recall MEL'


@pytest.mark.skipif(not list((ROOT / "runs/smoke").glob("*/*/data/code.json")), reason="the chain at smoke size has not run here")
def test_a_complete_stage_keeps_nothing_to_resume_from():
    "Made again, as its code has changed, it would go on with what the old code had learned"
    complete = [p.parent for p in (ROOT / "runs/smoke").glob("*/*/**/code.json")]
    assert {"base", "classifier"} <= {part for folder in complete for part in folder.parts}
    assert not [p for folder in complete for name in ("*.pt", "first-*", "encoder.safetensors", "outliers.safetensors") for p in folder.glob(name)]
