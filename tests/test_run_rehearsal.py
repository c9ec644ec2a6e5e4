"The published size is rehearsed with every stage that it has"
import re
import subprocess
import sys
from pathlib import Path

import pytest

BIN, ROOT = Path(sys.executable).parent, Path(__file__).parent.parent


@pytest.mark.skipif(any((ROOT / "runs/rehearsal").glob("*/logex/**/record.json")), reason="a rehearsal ran here: its stages are there already")
def test_a_rehearsal_can_be_planned_and_leaves_no_stage_of_the_table_out():
    done = subprocess.run([BIN / "logex_rehearse", "--plan", "--cores", "1"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
    planned = set(re.findall(r"^(\w+) +\d+\b", done.stdout, re.M))
    assert {"data", "base", "lora", "images", "outliers", "energy", "classifier", "table2", "figure2", "figure4", "oracle"} <= planned
