"What is recorded in results/ can be made again from a commit that everyone has"
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECORDS = sorted([*(ROOT / "results").rglob("record.json"), *(ROOT / "results/benchmarks").glob("*.json")])
# Made before this test, from working copies with changes or where there was no git; each leaves the list when it is made again.
EARLIER = {"mini/pbc_blood_64/logex_figure3", "mini/phantom/logex_ablation", "mini/phantom/logex_figure3", "benchmarks/label_diffusion_gpu.json"}


def name(path: Path) -> str:
    return (path.parent if path.name == "record.json" else path).relative_to(ROOT / "results").as_posix()


def commit(path: Path) -> str: # Of a stage's record, or of a benchmark's
    found = json.loads(path.read_text())
    return found.get("commit") or found["environment"].get("commit", "none-dirty")


@pytest.mark.parametrize("path", RECORDS, ids=name)
def test_a_record_is_of_a_clean_commit(path):
    assert commit(path).endswith("-dirty") == (name(path) in EARLIER)


def test_commits_of_records_are_in_the_history():
    known = subprocess.run(["git", "-C", ROOT, "log", "--format=%H"], capture_output=True, text=True, check=True).stdout.split()
    if len(known) < 2: pytest.skip("a shallow clone has no history")
    commits = {name(path): commit(path) for path in RECORDS if not commit(path).endswith("-dirty")}
    assert not {place: made for place, made in commits.items() if not any(full.startswith(made) for full in known)}
