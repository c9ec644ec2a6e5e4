"Published images and a published LoRA take the place of ours in every page"
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from logex_nb.core import read_record, sha256
from logex_nb.generate.lora import WEIGHTS
from logex_nb.generate.manifest import read_manifest
from logex_nb.phantom.histology import tile

ROOT, BIN = Path(__file__).parent.parent, Path(sys.executable).parent
MADE = Path("runs/smoke/phantom/logex")


def run(folder, *words, ok=True):
    command = [BIN / "logex_reproduce", "--rows", "ce,released,released_lora", "--cores", "2", *words]
    done = subprocess.run(command, cwd=folder, env=os.environ | dict(PYTHONPATH=str(folder)), capture_output=True, text=True)
    assert bool(done.returncode) != ok, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout if ok else done.stderr.strip()


@pytest.mark.skipif(not (ROOT / MADE / "images/logex/set0/record.json").exists(), reason="the chain at smoke size has not run here")
def test_what_was_published_is_learned_from(tmp_path, checkout):
    checkout("")
    assert "no released images in" in run(tmp_path, "--target", "logex_table2", "--plan", ok=False)

    drawn = read_manifest(tmp_path / MADE / "images/logex/set0")
    for label in (names := drawn["class"].unique()):
        (place := tmp_path / "data/logex_images" / label.upper().replace(" ", "_")).mkdir(parents=True)
        for k in range(3):
            for kind in ("sd", "ours"): Image.fromarray(tile(label, k, kind == "ours")[0]).save(place / f"{k}_{kind}.png")
    assert "no LoRA at" in run(tmp_path, "--target", "logex_table2", "--plan", ok=False)
    (tmp_path / "data/logex_lora").mkdir()
    shutil.copy(tmp_path / MADE / "lora/tail/set0" / WEIGHTS, tmp_path / "data/logex_lora" / WEIGHTS)

    run(tmp_path, "--target", "logex_table2,logex_oracle")
    taken = read_manifest(tmp_path / MADE / "released/released/set0")
    assert len(taken) == 2 * len(names) and set(taken.method) == {"released"}
    assert all("_ours.png" in source for source in taken.source)
    pictures = lambda generator: {p.relative_to(p.parent.parent).as_posix(): sha256(p) for p in (tmp_path / MADE / "images" / generator / "set0").rglob("*.png")}
    assert pictures("released_lora") == pictures("logex") and pictures("logex"), "the same LoRA and the same guide draw the same images"
    assert not (tmp_path / MADE / "lora/released/set0/history.csv").exists()
    assert any(WEIGHTS in name for name in read_record(tmp_path / MADE / "lora/released/set0")["inputs"])
    for target in ("table2", "oracle"):
        shown = (tmp_path / f"runs/results/smoke/phantom/logex_{target}/table.csv").read_text()
        assert "LoGex, the released images" in shown and "LoGex, the released LoRA" in shown, target

    (tmp_path / "data/logex_lora" / WEIGHTS).write_bytes(b"no LoRA")
    said = run(tmp_path, "--target", "logex_table2", ok=False)
    assert "does not fit the base model" in said and (tmp_path / MADE / "released/released/set0/record.json").exists()
