"A set of images that several jobs drew is the one that a single job draws"
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from logex_nb.core import read_record, sha256
from logex_nb.generate.manifest import read_manifest

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
