"Helpers outlive neither the run nor its process, and leave no trace in the files"
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
from test_generate_guidance import CONFIG, IDS, PROMPTS, Colour, make

from logex_nb.core import sha256
from logex_nb.generate.guidance import guide, make_starts
from logex_nb.generate.helpers import shared
from logex_nb.generate.manifest import generate_folder

LONG = replace(CONFIG, per_class=200)


def elsewhere(here, *args):
    "Slowly, and in another process than `here`; `seconds` says which"
    if os.getpid() == here: return
    for made in guide(*args):
        time.sleep(.1)
        made.seconds = os.getpid()
        yield made


def images(**how):
    return shared(partial(elsewhere, os.getpid()), make(), Colour(), make_starts(PROMPTS, IDS, LONG), LONG, 1, patience=600, **how)


def gone(process: psutil.Process, patience: float = 60) -> bool:
    for _ in range(int(10 * patience)):
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE: return True
        time.sleep(.1)
    return False


def test_a_run_that_is_given_up_ends_its_helper():
    run = images()
    helper = psutil.Process(next(run).seconds)
    assert helper.nice() == 19 and helper.ppid() == os.getpid()
    run.close()
    assert gone(helper)


class Later:
    "Nothing here at first, so that helpers make all images; what is missing afterwards is made here"
    def __init__(self): self.here, self.calls = os.getpid(), 0

    def __call__(self, *args):
        self.calls += 1
        for made in [] if os.getpid() == self.here and self.calls == 1 else guide(*args):
            made.seconds = os.getpid()
            time.sleep(.05)
            yield made


def test_images_of_a_helper_that_is_killed_are_made_here():
    config = replace(CONFIG, per_class=20)
    starts = make_starts(PROMPTS, IDS, config)
    made = [first := next(run := shared(Later(), make(), Colour(), starts, config, 1, patience=600, nice=0))]
    psutil.Process(first.seconds).kill()
    made += run
    assert {m.seconds for m in made} == {first.seconds, os.getpid()}
    assert sorted(map(str, starts)) == sorted(str(m.start) for m in made)


def test_without_helpers_nothing_is_pickled():
    class Unpicklable(Colour):
        def __reduce__(self): raise TypeError("not to be pickled")
    starts = make_starts(PROMPTS, IDS, CONFIG)
    assert len(list(shared(guide, make(), Unpicklable(), starts, CONFIG, 0))) == len(starts)


def test_a_helper_ends_when_its_run_is_killed():
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import test_generate_helpers as t\n"
            "for made in t.images(nice=0): print(made.seconds, flush=True)")
    run = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True)
    try: helper = psutil.Process(int(run.stdout.readline()))
    finally: run.send_signal(signal.SIGKILL)
    run.wait()
    assert gone(helper)


def test_files_do_not_depend_on_helpers(tmp_path):
    config = replace(CONFIG, per_class=8)
    makers = guide, Later()
    tables = [generate_folder(make(), Colour(), PROMPTS, IDS, config, tmp_path / str(n), progress=False, make=m, helpers=n)
              for n, m in enumerate(makers)]
    assert tables[0].drop(columns="seconds").equals(tables[1].drop(columns="seconds"))
    files = [{p.relative_to(tmp_path / n): sha256(p) for p in (tmp_path / n).rglob("*.png")} for n in "01"]
    assert files[0] == files[1] and len(files[0]) == 32
