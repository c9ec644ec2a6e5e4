"What a person sees of a run: plain lines in a pipe, one changing line on a terminal, nothing left behind by Ctrl-C"
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
WATCH = """
import os, signal, sys
from functools import partial
for number in (signal.SIGINT, signal.SIGHUP): # which whatever runs the tests may ignore
    if signal.getsignal(number) == signal.SIG_IGN: signal.signal(number, signal.SIG_DFL)
from logex_nb.run.terminal import watch
sys.exit(watch(partial(os.execv, sys.executable, [sys.executable, "-c", sys.argv[1]]), "logs/toy.log", {"base": 65., "lora rank_1 set0": 3725.}))
"""
PLAN = """
import time
from logex_nb.run.terminal import _tell, report_plan
def begin(stage, at): _tell("begin", stage=stage, at=at)
def end(stage, at, words, result="done"): _tell("end", stage=stage, at=at, words=words, result=result)
print("paths, threads and reasons", flush=True)
report_plan(f"runs/mini/phantom/logex/{s}/code.json" for s in ("data", "base", "lora/rank_1/set0"))
"""
ALL = PLAN + """
begin("data", 0), end("data", 12.4, "96 images")
begin("base", 20), begin("lora rank_1 set0", 21), end("base", 90, "loss 0.112")
end("lora rank_1 set0", 3721, "loss 0.070")
"""
PLAIN = """\
log: logs/toy.log
 1/3  data                00:12                      96 images
 2/3  base                01:10  (expected 01:05)    loss 0.112
 3/3  lora rank_1 set0  1:01:40  (expected 1:02:05)  loss 0.070
"""


def environment(**more: str) -> dict[str, str]:
    "As on a terminal of today, whatever the tests run in"
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "CI", "COLUMNS", "LOGEX_EVENTS")}
    return plain | dict(PYTHONPATH=str(ROOT), TERM="xterm-256color", PYTHONIOENCODING="utf-8") | more


def piped(toy: str, folder: Path, **more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WATCH, toy]
    return subprocess.run(command, cwd=folder, env=environment(**more), capture_output=True, text=True)


def on_terminal(
        toy: str, folder: Path, press: bytes = b"", when: bytes = b"", columns: int = 80, **more: str
) -> tuple[str, int]:
    "What a terminal is sent, and the exit code; `press` is typed once `when` was shown"
    pid, screen = pty.fork()
    if not pid:
        os.chdir(folder)
        os.execve(sys.executable, [sys.executable, "-c", WATCH, toy], environment(COLUMNS=str(columns), **more))
    shown = b""
    while True:
        try: some = os.read(screen, 4096)
        except OSError: break # the other end is closed
        if not some: break
        shown += some
        if press and when in shown: press = os.write(screen, press) and b""
    os.close(screen)
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def left_standing(shown: str) -> list[str]:
    "The lines that a terminal shows in the end"
    return [line.split("\r\x1b[2K")[-1] for line in shown.replace("\r\n", "\n").split("\n")]


def alive(pid: int) -> bool:
    try: return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError: return False


@pytest.mark.parametrize("how", [{}, dict(CI="true"), dict(NO_COLOR="1")])
def test_plain_lines_in_a_pipe(tmp_path, how):
    done = piped(ALL, tmp_path, **how)
    *lines, last = done.stdout.splitlines(keepends=True)
    assert "".join(lines) == PLAIN and re.fullmatch(r"all done in 00:\d\d\n", last)
    assert not done.returncode and not done.stderr
    assert (tmp_path / "logs" / "toy.log").read_text() == "paths, threads and reasons\n"


@pytest.mark.parametrize("how", [dict(CI="true"), dict(NO_COLOR="1"), dict(TERM="dumb")])
def test_plain_lines_on_a_terminal_that_wants_them(tmp_path, how):
    shown, code = on_terminal(ALL, tmp_path, **how)
    assert not code and shown.replace("\r\n", "\n").startswith(PLAIN)
    assert "\x1b" not in shown and "\r" not in shown.replace("\r\n", "\n")


def test_one_line_changes_on_a_terminal(tmp_path):
    toy = PLAN + """
now = time.time()
begin("data", now), time.sleep(.5), _tell("progress", stage="data", share=.5, what="images"), time.sleep(.5)
begin("base", now - 13), time.sleep(.5), end("data", now + 9, "96 images")
end("base", now + 70, "failed: no tail", "failed")
"""
    shown, code = on_terminal(toy, tmp_path)
    assert re.search(r" 0/3 in 00:0\d  █████       50% data images\r", shown)
    assert re.search(r" 0/3 in 00:0\d  █████       50% data images  ██▏? +2\d% base\r", shown)
    lines = left_standing(shown)
    assert lines[0] == "log: logs/toy.log" and lines[1].startswith(" 1/3  data ") and lines[1].endswith("  96 images")
    assert lines[2].startswith("\x1b[31m 2/3  base ") and lines[2].endswith("failed: no tail\x1b[0m")
    assert re.fullmatch(r"all done in 00:\d\d", lines[3]) and lines[4:] == [""]
    assert not code


@pytest.mark.parametrize("columns", [30, 50, 80])
def test_no_line_is_wider_than_the_terminal(tmp_path, columns):
    toy = PLAN + """
for s in ("data", "base", "lora rank_1 set0"):
    begin(s, time.time()), _tell("progress", stage=s, share=.5, what="a bar with quite a long name")
time.sleep(1)
end("data", time.time(), "failed: " + 9 * "a long reason ", "failed")
"""
    shown, _ = on_terminal(toy, tmp_path, columns=columns)
    plain = re.sub(r"\x1b\[\d*[mK]", "", shown)
    assert "data" in plain and max(map(len, re.split(r"[\r\n]+", plain))) < columns


def test_a_stage_that_was_killed_and_one_that_failed(tmp_path):
    toy = """
begin("data", 0), begin("base", time.time()), end("data", 3, "failed: no tail", "failed")
raise SystemExit(3)
"""
    done = piped(PLAN + toy, tmp_path)
    assert done.returncode == 3
    assert done.stdout.splitlines()[1:] == [
        " 1/3  data                00:03                      failed: no tail",
        " 2/3  base                00:00  (expected 01:05)    stopped"]


def test_half_a_line_waits_for_its_rest(tmp_path):
    toy = PLAN + r"""
import os
def write(text):
    with open(os.environ["LOGEX_EVENTS"], "a") as f: f.write(text)
begin("data", 0)
write('{"event": "end", "stage": "data", "at": 12.4, "result": "do'), time.sleep(.7)
write('ne", "words": "96 images"}\n\nno JSON\n'), begin("base", 20), write('{"event": "end", "stage": "ba')
"""
    done = piped(toy, tmp_path)
    assert not done.returncode and not done.stderr
    lines = done.stdout.splitlines()
    assert lines[1] == PLAIN.splitlines()[1] and lines[2].startswith(" 2/3  base ") and lines[2].endswith("  stopped")


def test_a_report_that_cannot_be_written_stops_no_stage(tmp_path):
    told = subprocess.run([sys.executable, "-c", PLAN], env=environment(LOGEX_EVENTS=str(tmp_path / "none" / "events")))
    assert not told.returncode


SLEEPING = PLAN + """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal, time; time.sleep(600)"])
open("pids", "w").write(f"{os.getpid()} {child.pid}")
begin("data", 0), end("data", 3, "96 images"), begin("base", time.time())
time.sleep(600)
"""
linux = pytest.mark.skipif(not Path("/proc").exists(), reason="asks Linux which processes live")


def pids(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "pids").read_text().split()]


@linux
@pytest.mark.parametrize("deaf", ["", "signal.signal(signal.SIGINT, signal.SIG_IGN); "], ids=["willing", "deaf"])
def test_ctrl_c_leaves_no_process(tmp_path, deaf):
    shown, code = on_terminal(SLEEPING.replace("time; ", f"time; {deaf}"), tmp_path, press=b"\x03", when=b"in 00:01")
    assert code == 130 and not any(map(alive, pids(tmp_path)))
    last = "stopped: 1 of 3 stages are done and kept; the same command goes on from there"
    assert left_standing(shown)[2:] == [last, ""]
    assert "Traceback" not in shown and "KeyboardInterrupt" in (tmp_path / "logs" / "toy.log").read_text()


def running(toy: str, folder: Path) -> subprocess.Popen:
    "A run in a pipe, once its first stage is done"
    process = subprocess.Popen([sys.executable, "-c", WATCH, toy], cwd=folder, env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        if " data " in line: return process


@linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_process(tmp_path, number):
    process = running(SLEEPING, tmp_path)
    process.send_signal(number)
    assert process.stdout.read().startswith("stopped: 1 of 3 stages") and process.wait() == 128 + number
    assert not any(map(alive, pids(tmp_path)))


@linux
def test_a_closed_pipe_leaves_no_process(tmp_path):
    later = 'time.sleep(1), end("base", 0, "done"), time.sleep(600)\n'
    process = running(SLEEPING.replace("time.sleep(600)\n", later), tmp_path)
    process.stdout.close() # as `head` does
    assert process.wait()
    assert not any(map(alive, pids(tmp_path)))


def test_a_stage_reports_itself(tmp_path):
    "From a kernel's bar to the event, by the command that Snakemake calls"
    record = "from pathlib import Path\nPath('run/record.json').write_text('{\"metrics\": {\"images\": 7}}');"
    cells = [nbformat.v4.new_code_cell(s) for s in (
        "n: int = 1", "import time\nfrom tqdm import tqdm",
        "for _ in tqdm(range(8), desc='LoRA', mininterval=0): time.sleep(.2)",
        "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])\nplt.show()\nprint('a table')", record)]
    cells[0].metadata["tags"] = ["parameters"]
    spec = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=spec), tmp_path / "toy.ipynb")
    command = [Path(sys.executable).parent / "logex_run", "toy.ipynb", "run"]
    toy = f"import subprocess, sys; sys.exit(subprocess.run({list(map(str, command))}).returncode)"
    done = piped(toy, tmp_path)
    assert not done.returncode and re.fullmatch(r" 1  run  00:\d\d  7 images", done.stdout.splitlines()[1]), done.stdout
    events = (tmp_path / "logs" / "toy.jsonl").read_text()
    assert re.search(r'"event": "progress".*"stage": "run", "what": "LoRA", "share": 0\.\d', events), events
    log = (tmp_path / "logs" / "toy.log").read_text()
    assert "a table" in log and "LoRA" in log and "<Figure size" not in log
