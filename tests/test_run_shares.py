"A set of images that several jobs drew is the one that a single job draws"
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from logex_nb.core import read_record, sha256, write_json
from logex_nb.generate.manifest import fill_folder, join_folders, read_manifest

ROOT, BIN = Path(__file__).parent.parent, Path(sys.executable).parent
MADE = Path("runs/smoke/phantom/logex")
SET = MADE / "images" / "logex" / "set0"


@pytest.mark.skipif(not (ROOT / SET / "record.json").exists(), reason="the chain at smoke size has not run here")
def test_three_jobs_draw_what_one_draws(tmp_path, checkout):
    checkout("data", "base", "autoencoder", "lora/tail", "classifier/auxiliary")

    def run(shares):
        command = [BIN / "logex_reproduce", "--rows", "logex", "--target", "logex_table2", "--cores", "2", "--shares", str(shares)]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | dict(PYTHONPATH=str(tmp_path)), capture_output=True, text=True)
        assert not done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    said = run(3)
    assert all(f"images logex set0 shares {k}of3" in said for k in (1, 2, 3)), said
    drawn = lambda place: {p.relative_to(place).as_posix(): sha256(p) for p in place.rglob("*.png")}
    assert drawn(tmp_path / SET) == drawn(ROOT / SET) and drawn(ROOT / SET)
    pd.testing.assert_frame_equal(*(read_manifest(place / SET).drop(columns="seconds") for place in (tmp_path, ROOT)))
    assert len(read_record(tmp_path / SET)["metrics"]["shares"]) == 3 and not list((tmp_path / SET).glob("shares/*"))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / SET).rglob("*")}
    run(2)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / SET).rglob("*")} == before
    told = subprocess.run([BIN / "logex_reproduce", "--shares", "0"], cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode and told.stderr.strip() == "error: shares is 0: give 1 or more"


def grey(todo, batch):
    for name, index in todo: yield {"class": name, "index": index, "seed": 0, "confidence_before": ""}, dict(guided=np.full((4, 4, 3), index, np.uint8))


def filled(folder, wanted, **more): return fill_folder(folder, dict(prompts={}), wanted, grey, 2, progress=False, **more)


def test_a_share_may_be_empty_and_a_class_may_leave(tmp_path):
    wanted = [("a", 0), ("a", 1), ("b", 0)]
    assert len(filled(tmp_path / "third", wanted, share=3, shares=3)) == 0
    filled(tmp_path / "whole", wanted)
    assert len(filled(tmp_path / "whole", wanted[:1])) == 3 # what was drawn before stays, after what is wanted


def test_parts_may_have_had_different_batches(tmp_path):
    for name, batch, steps in (("a", 8, 10), ("b", 4, 10), ("c", 8, 20)):
        filled(tmp_path / name, [(name, 0)])
        write_json(tmp_path / name / "settings.json", dict(prompts={name: ""}, class_ids={name: 0}, weights="", batch=batch, per_class=1, steps=steps))
    assert join_folders([tmp_path / "a", tmp_path / "b"], tmp_path)["class"].tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="different .'steps'"): join_folders([tmp_path / "a", tmp_path / "c"], tmp_path)
