"What is recorded in results/ can be made again from a commit that everyone has"
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECORDS = sorted((ROOT / "results").rglob("record.json"))
# Made before this test, from working copies with changes; each leaves the list when it is made again.
EARLIER = {f"mini/{name}" for name in (
    "pbc_blood_64/logex_cost", "pbc_blood_64/logex_figure3", "pbc_blood_64/logex_quality", "phantom/logex_ablation", "phantom/logex_cost", "phantom/logex_figure3",
    "phantom/logex_quality")}
name = lambda path: path.parent.relative_to(ROOT / "results").as_posix()
dirty = lambda path: json.loads(path.read_text())["commit"].endswith("-dirty")


@pytest.mark.parametrize("path", RECORDS, ids=name)
def test_a_record_is_of_a_clean_commit(path):
    assert dirty(path) == (name(path) in EARLIER)


def test_commits_of_records_are_in_the_history():
    known = set(subprocess.run(["git", "-C", ROOT, "log", "--format=%H"], capture_output=True, text=True, check=True).stdout.split())
    if len(known) < 2: pytest.skip("a shallow clone has no history")
    commits = {name(path): json.loads(path.read_text())["commit"] for path in RECORDS if not dirty(path)}
    assert not {place: commit for place, commit in commits.items() if not any(full.startswith(commit) for full in known)}
