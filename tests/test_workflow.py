"The two commands, as a user meets them: one clear line and a non-zero exit for every slip"
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from PIL import Image

from logex_nb.classify import frozen
from logex_nb.core import write_json
from logex_nb.generate.manifest import read_lines
from logex_nb.run.price import card_rates, price
from logex_nb.run.reruns import changes, made_of, spoilt
from logex_nb.run.study import Study
from logex_nb.run.workflow import _failures, snakemake_arguments

BIN, ROOT = Path(sys.executable).parent, Path(__file__).parent.parent
CLASSIFIER = ROOT / "nbs" / "stages" / "classifier.ipynb"
SLIPS = {
    "profile": (["--profile", "papr"], "no profile 'papr': choose from"),
    "dataset": (["--dataset", "fantom"], "unknown dataset 'fantom': choose"),
    "target": (["--target", "table9"], "no target 'table9': choose from"),
    "seeds": (["--seeds", "0;1"], "seeds are '0;1'"),
    "negative seed": (["--seeds=-1"], "seeds are '-1'"),
    "seed twice": (["--seeds", "1,01"], "give each one once"),
    "large seed": (["--seeds", "99999999999999999999"], "give numbers below"),
    "cores": (["--cores=-1"], "cores is -1"),
    "no folder": (["--dataset", "folder:/dev/null"], "no image folder at /dev/null"),
    "rows": (["--rows", "ce,gan"], "no arm 'gan': choose from"),
    "settings of an arm": (["--plan", "--set", "training.frozen=true training.jitter=0 arms.oversampling.jitter=0.3"], "jitter is 0.3: a frozen body"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_told_in_one_line(slip):
    arguments, told = SLIPS[slip]
    done = subprocess.run([BIN / "logex_reproduce", *arguments], capture_output=True, text=True)
    assert done.returncode
    assert not done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and told in last


def test_spaces_among_seeds_and_rows_change_nothing():
    study = Study("logex", "smoke", "phantom")
    assert snakemake_arguments(study, ["table2"], " 0, 01") == snakemake_arguments(study, ["table2"], "0,1")


def test_a_mistyped_parameter_is_refused(tmp_path):
    done = subprocess.run([BIN / "logex_run", CLASSIFIER, tmp_path / "run", "amr=ce"], capture_output=True, text=True)
    assert done.returncode
    assert "classifier.ipynb has no parameter 'amr': choose from" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "run").write_text("a file stands where the folder should be")
    done = subprocess.run([BIN / "logex_run", CLASSIFIER, tmp_path / "run", "arm=ce"], capture_output=True, text=True)
    assert done.returncode
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")


def tiny(data: Path) -> Path:
    "A folder with a common and a rare class; where its runs are"
    lines = ["file_name,label,part"]
    for name, part, n in (("common", "head", 40), ("rare", "tail", 15)):
        (data / name).mkdir(parents=True)
        for i in range(n):
            Image.new("RGB", (8, 8), (5 * i, 0, n)).save(data / name / f"{i}.png")
            lines.append(f"{name}/{i}.png,{name},{part}")
    (data / "metadata.csv").write_text("\n".join(lines))
    return ROOT / "runs" / "smoke" / data.name / "logex"


def long_tail(data: Path, *more: str) -> subprocess.CompletedProcess:
    "The figure that needs nothing but a split"
    return subprocess.run([BIN / "logex_reproduce", "--dataset", f"folder:{data}", "--target", "logex_figure4", *more],
                          cwd=ROOT, capture_output=True, text=True)


def forget(data: Path) -> None:
    for place in (ROOT / "runs", ROOT / "runs" / "results"): shutil.rmtree(place / "smoke" / data.name, ignore_errors=True)


def test_a_stage_that_fails_has_the_last_word(tmp_path):
    data = tmp_path / f"broken_{tmp_path.parent.name.replace('-', '_')}"
    runs = tiny(data)
    (data / "rare" / "2.png").write_bytes((data / "rare" / "2.png").read_bytes()[:40])
    (runs / "base").mkdir(parents=True)
    (runs / "base" / "error.txt").write_text("base.ipynb: of an earlier run")
    os.utime(runs / "base" / "error.txt", (1, 1))
    try:
        done = long_tail(data)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode and last.startswith("error: data.ipynb: ") and "2.png" in last, last
        assert "earlier run" not in done.stderr
        assert not (runs / "data" / "record.json").exists()
    finally: forget(data)


def test_other_images_begin_again_with_the_split(tmp_path):
    data = tmp_path / f"changing_{tmp_path.parent.name.replace('-', '_')}"
    tiny(data)
    said = lambda: (done := long_tail(data, "--plan")).stdout + done.stderr
    try:
        assert not long_tail(data).returncode
        assert "Nothing to be done" in said()
        Image.new("RGB", (8, 8), "white").save(data / "rare" / "2.png")
        assert re.search(r"^data +1\b", said(), re.M)
    finally: forget(data)


@pytest.mark.parametrize("name", ["batch #2", "it's: a {test}"])
def test_a_path_is_passed_on_as_it_is(tmp_path, name):
    "Beside a folder whose name is a part of it, and from another working folder"
    own = tmp_path.parent.name.replace("-", "_")
    data, other = tmp_path / f"{own} {name}", tmp_path / own
    tiny(data)
    runs = ROOT / "runs" / "smoke" / re.sub(r"[^\w.-]+", "_", data.name) / "logex"
    tiny(other)
    try:
        done = subprocess.run([BIN / "logex_reproduce", "--dataset", f"folder:{os.path.relpath(data, ROOT / 'nbs')}", "--target", "logex_figure4"],
                              cwd=ROOT / "nbs", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads((runs / "data" / "record.json").read_text())["config"]["source"]["path"] == str(data)
    finally: shutil.rmtree(runs.parent, ignore_errors=True), shutil.rmtree(ROOT / "runs" / "results" / "smoke" / runs.parent.name, ignore_errors=True)


def test_a_lock_that_cannot_be_taken(tmp_path):
    data = tmp_path / f"locked_{tmp_path.parent.name.replace('-', '_')}"
    (tiny(data) / "lock").mkdir(parents=True)
    try:
        done = long_tail(data)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode and last.startswith("error: ") and last.endswith("lock'"), done.stderr
        assert "Traceback" not in done.stderr
    finally: forget(data)


def test_two_runs_in_one_place(tmp_path):
    data = tmp_path / f"twice_{tmp_path.parent.name.replace('-', '_')}"
    runs = tiny(data)
    runs.mkdir(parents=True)
    try:
        with FileLock(runs / "lock"): done = long_tail(data)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode and last == f"error: another run is at work in {runs}: wait for its end or stop it"
    finally: forget(data)


@pytest.mark.parametrize("paper, dataset, targets, needed", [("logex", "phantom", ["table2", "figure2", "figure4"], {"data", "base", "classifier"}),
                                                            ("logex", "phantom", ["all"], {"data", "base", "classifier"}), ("isic", "phantom_skin", ["all"], {"data", "painter", "classifier"})], ids=["some", "all", "recorded whole"])
def test_recorded_results_do_not_pass_for_ones_made_here(tmp_path, paper, dataset, targets, needed):
    "Results are in git; in a fresh clone nothing that they were made from is there"
    for path in ROOT.iterdir():
        if path.name not in ("runs", ".snakemake", "results"): (tmp_path / path.name).symlink_to(path)
    shutil.copytree(ROOT / "results", tmp_path / "results", copy_function=shutil.copyfile) # newer than all else
    arguments = snakemake_arguments(Study(paper, "mini", dataset), targets, plan=True)
    done = subprocess.run([sys.executable, "-m", "snakemake", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    planned = set(re.findall(r"^(\w+) +\d+$", done.stdout, re.M))
    assert needed <= planned, done.stdout


def test_plain_folder_has_no_ceiling(tmp_path):
    listed = ["file_name,label,part"]
    for name, part, n in (("common", "head", 130), ("rare", "tail", 90)): # enough for the protocol, which a plan tries
        (tmp_path / name).mkdir()
        for i in range(n): Image.new("RGB", (8, 8), (i, 0, n)).save(tmp_path / name / f"{i}.png")
        listed += [f"{name}/{i}.png,{name},{part}" for i in range(n)]
    (tmp_path / "metadata.csv").write_text("\n".join(listed))
    study = lambda rows="": Study("logex", "mini", f"folder:{tmp_path}", rows)
    assert not study().pool and "ceiling" not in study("all").table()
    for rows in ("", "all", "ce"): snakemake_arguments(study(rows), ["table2"])
    with pytest.raises(ValueError, match=r"rows \['ceiling'\] need a pool"): snakemake_arguments(study("ce,ceiling"), ["table2"])
    (tmp_path / "metadata.csv").write_text("file_name,label,split\ncommon/0.png,common,train\nrare/0.png,rare,pool\n")
    assert study().pool and "ceiling" in study("all").table()


@pytest.mark.parametrize("protocol, told", [
    ("shots = 1", "shots is 1: at least 2 needed"), ("head = 2.5", "head is 2.5: give names of classes"), ("shots = 4\ntest = 900", "too few for"),
    ("shots = ", "mini.toml: Invalid value")])
def test_a_plan_tells_what_would_stop_a_run(tmp_path, protocol, told):
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "_docs*", "results", "*.ipynb_checkpoints"))
    (copy / "profiles" / "mini.toml").write_text(f"[protocol]\n{protocol}\n")
    done = subprocess.run([BIN / "logex_reproduce", "--profile", "mini", "--plan"], capture_output=True, text=True, cwd=copy, env=os.environ | dict(PYTHONPATH=str(copy)))
    assert done.returncode
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and told in last, done.stderr[-500:]


def test_a_plan_tells_of_a_picture_with_two_classes(tmp_path):
    tiny(tmp_path / "skin")
    snakemake_arguments(study := Study("logex", "smoke", f"folder:{tmp_path / 'skin'}"), ["figure4"])
    shutil.copy(tmp_path / "skin/common/39.png", tmp_path / "skin/rare/14.png")
    with pytest.raises(ValueError, match=r"are one and the same, under the classes \['common', 'rare'\]"): snakemake_arguments(study, ["figure4"])


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    "The notebook could not say it: its file for errors is empty"
    (tmp_path / "error.txt").touch()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert _failures(tmp_path, 0) == f"error: no space is left for {tmp_path}: make room, the same command goes on from there"


HOLDS = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from logex_nb.run import workflow
workflow._snakemake = lambda command: time.sleep(float(*command))
place = Path(sys.argv[1])
workflow._reproduce(SimpleNamespace(runs=place, results=place), [], [sys.argv[2]], 1, False, 1)
"""


def test_a_run_that_was_killed_holds_its_folder_until_its_work_ends(tmp_path):
    begin = lambda seconds: subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path), str(seconds)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    first, log = begin(60), tmp_path / "logs"
    while not list(log.glob("*.log")):
        assert first.poll() is None, first.stderr.read()
        time.sleep(.1)
    time.sleep(1)
    works = [int(pid) for task in Path(f"/proc/{first.pid}/task").iterdir() for pid in (task / "children").read_text().split()]
    first.kill(), first.wait()
    assert "another run is at work" in begin(0).communicate(timeout=60)[1]
    for pid in works: os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    assert begin(0).wait(timeout=60) == 0


@pytest.mark.skipif(not (ROOT / "runs/smoke/phantom/logex/data/record.json").exists(), reason="the chain at smoke size has not run here")
def test_an_altered_file_is_made_again_by_the_ordinary_command(checkout):
    copy = checkout("data")
    data = copy / "runs/smoke/phantom/logex/data"
    whole = (data / "images.npy").read_bytes()
    (data / "images.npy").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = subprocess.run([BIN / "logex_reproduce", "--target", "logex_figure4"], capture_output=True, text=True, cwd=copy, env=os.environ | dict(PYTHONPATH=str(copy)))
    assert not done.returncode and "data: images.npy is not what was made: the stage is made again" in done.stdout
    assert (data / "images.npy").read_bytes() == whole


def test_a_clock_that_was_ahead_changes_nothing(tmp_path):
    "Images and stages are dated tomorrow, and one stage is lost: it is made again, alone, and kept"
    data = tmp_path / f"dated_{tmp_path.parent.name.replace('-', '_')}"
    runs, tomorrow = tiny(data), time.time() + 86400
    try:
        assert not long_tail(data).returncode
        figure = ROOT / "runs" / "results" / "smoke" / data.name / "logex_figure4" / "record.json"
        figure.unlink()
        for path in [*data.rglob("*"), *runs.rglob("*.json")]: os.utime(path, (tomorrow, tomorrow))
        again = long_tail(data)
        assert not again.returncode and figure.exists(), again.stdout
        assert "figure4" in again.stdout and " data " not in again.stdout
        assert "nothing to do" in long_tail(data).stdout
    finally: forget(data)


@pytest.mark.parametrize("name, content", [("code.json", ""), ("code.json", "[]"), ("code.json", "{}"), ("record.json", "{"), ("record.json", "\0" * 9)])
def test_a_damaged_mark_of_a_stage_makes_it_again(tmp_path, name, content):
    now = dict(code={}, parameters={}, settings=dict(steps=1))
    (tmp_path / "code.json").write_text('{"code": {}, "parameters": {}}'), (tmp_path / "record.json").write_text('{"config": {"steps": 1}}')
    assert changes(tmp_path, tmp_path / "record.json", now) == []
    (tmp_path / name).write_text(content)
    with pytest.warns(UserWarning, match=f"{name} is damaged"): assert changes(tmp_path, tmp_path / "record.json", now) is None
    assert (tmp_path / f"{name}.damaged").exists() and made_of(tmp_path, tmp_path / "record.json", now)


def test_a_damaged_list_of_files_makes_a_stage_again(tmp_path):
    (stage := tmp_path / "lora").mkdir()
    for name in ("record.json", "code.json"): (stage / name).write_text(name)
    (stage / "files.json").touch()
    assert spoilt(tmp_path, aside=False) == spoilt(tmp_path) == {"lora": ["files.json"]} and not (stage / "code.json").exists()


@pytest.mark.parametrize("content", [b"class,index\nmel,0\n\0\0\0\n", b"\xff\n", b"class,index\nmel,one\n", b"class,index\nmel,0,1\n", b"other\n1\n"])
def test_a_damaged_manifest_is_set_aside(tmp_path, content):
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.warns(UserWarning, match="manifest.csv is damaged"): assert read_lines(tmp_path / "manifest.csv") == []
    (tmp_path / "manifest.csv").write_text("class,index\nmel,0\nmel,1")
    assert read_lines(tmp_path / "manifest.csv") == [{"class": "mel", "index": "0"}]


@pytest.mark.parametrize("suffix", [".npy", ".names.npy"])
def test_damaged_features_are_computed_again(tmp_path, monkeypatch, suffix):
    said = lambda pooled, net, images, *more: np.repeat(images.reshape(len(images), -1)[:, :1], 3, 1).astype(np.float16)
    monkeypatch.setattr(frozen, "_in_batches", said)
    images, names = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3), np.array([b"a" * 64, b"b" * 64])
    ask = lambda: frozen._compute_missing(SimpleNamespace(pooled=None), images, names, tmp_path, "cpu", False)
    first = ask()[0][1]
    (tmp_path / f"{'a' * 64}{suffix}").write_bytes(b"\x93NUMPY")
    with pytest.warns(UserWarning, match="is damaged"): again = ask()
    assert len(again) == len(ask()) == 1 and (again[0][1] == first).all()


@pytest.mark.parametrize("left", ["checkpoint.pt", "begun.json", "outputs.npz"])
def test_a_damaged_leftover_is_set_aside(tmp_path, left):
    (tmp_path / left).touch()
    code = dict(checkpoint="from logex_nb.classify.checkpoints import load_checkpoint; load_checkpoint(p, 'key', None, None)",
                begun="from logex_nb.core import Run; Run(p, 'toy').__enter__()",
                outputs="import numpy as np; from logex_nb.classify.outputs import save_outputs; save_outputs(p, 'val', np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(2), ['a', 'b'])")[left.partition(".")[0]]
    done = subprocess.run([sys.executable, "-c", f"from pathlib import Path; p = Path({str(tmp_path)!r}); {code}"], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert f"{left} is damaged" in done.stderr and (tmp_path / f"{left}.damaged").exists()


def test_a_plan_without_the_data_has_a_price(tmp_path):
    "The published size is planned where neither its images nor its weights are"
    done = subprocess.run([BIN / "logex_reproduce", "--profile", "paper", "--dataset", f"kriegsmann:{tmp_path}", "--rows", "ce,logex", "--seeds", "0,1", "--plan"], env=os.environ | dict(HF_HUB_OFFLINE="1"), capture_output=True, text=True)
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line}
    assert rows["images"][1:3] == ["1", "1200"] and float(rows["lora"][2]) > 50 and "CompVis/stable-diffusion-v1-4" in done.stdout
    assert done.returncode and done.stderr.startswith("error: no tiles-v2.csv below") and "3.7 GB" in done.stderr and "CC BY" in done.stderr
    assert re.search(r"HF_HUB_OFFLINE is set; CompVis/stable-diffusion-v1-4@\w{40} is not on this machine: bring model_index.json and its folders unet, vae, .*/tree/\w{40} in one folder", done.stderr)
    assert "microsoft/resnet-50@" in done.stderr


def test_a_measured_card_turns_operations_into_hours(tmp_path):
    "Twice the rate, half the hours; a file that lacks a part gives no hours for what it lacks"
    study, found = Study("logex", "mini", "phantom", "ce,logex"), {}
    jobs = [dict(name="lora tail set0", settings=dict(lora=vars(study.settings("lora")))), dict(name="classifier ce seed0", settings=dict(training=vars(study.training("ce"))))]
    split = pd.DataFrame(dict(split=["train"] * 3 + ["test"], class_id=[0, 1, 1, 0], part=["head", "tail", "tail", "head"]))
    for rate in (1, 2):
        parts = dict(a=dict(tflops={"plain": rate / 2, "batched": rate}, memory=[dict(images_at_a_time=1, failed="out of memory")]), d=dict(ended="failed"))
        write_json(tmp_path / "gpu.json", dict(parts=parts, sizes=dict(backbone="50", side=395), environment=dict(device="a card")))
        assert (rates := card_rates(tmp_path / "gpu.json")) == dict(card="a card", generator=rate * 1e12)
        found[rate] = price(study, jobs, split, rates)["hours there"]
    assert found[1]["lora"] == pytest.approx(2 * found[2]["lora"]) and pd.isna(found[1]["classifier"])
    assert card_rates(tmp_path / "none.json") == {}
