"The benchmark of a GPU runs on small networks, keeps what it finds when a part fails, and takes along what it imports"
import importlib.metadata
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu  # noqa: E402
from guidance import IDS, PROMPTS, networks  # noqa: E402

from logex_nb.generate.batching import Slots
from logex_nb.generate.guidance import Guidance, Guided, make_starts, turn
from logex_nb.run.price import count_operations

KEYS = dict(a={"images_per_hour", "tflops", "share_of_bf16_product", "memory"}, b={"milliseconds", "compiler"}, c={"steps_per_second"},
            d={"images_per_second"}, e={"stage_seconds", "guided_images", "fpr95"})
RATIOS = dict(a=3, b=5, c=2, d=1)


def numbers(x) -> list[float]:
    if isinstance(x, (dict, list)): return [n for part in (x.values() if isinstance(x, dict) else x) for n in numbers(part)]
    return [x] if isinstance(x, float) else []


@pytest.mark.parametrize("name", "abcd") # and e below
def test_a_part_finds_what_it_is_for(name):
    torch.manual_seed(0)
    found = {}
    for more in gpu.PARTS[name][0](gpu.TINY, math.inf): found |= more
    assert KEYS[name] <= found.keys() and not found["failed"] and found["rounds_left_out"] == 0
    assert len(found["ratios"]) == RATIOS[name] and all(r["median"] > 0 for r in found["ratios"].values())
    assert all(map(math.isfinite, numbers(found)))


def stub(code: str): # In place of a part
    return [sys.executable, "-c", code]


def test_parts_that_fail_are_recorded_and_the_others_stay(tmp_path, monkeypatch):
    real = gpu.command
    lacking = dict(a="print('{\"kept\": 1}'); raise ValueError('no such card')", c="import time; print('{\"kept\": 2}', flush=True); time.sleep(600)")
    monkeypatch.setattr(gpu, "command", lambda name, args, until: stub(lacking[name]) if name in lacking else real(name, args, until))
    monkeypatch.setitem(gpu.PARTS, "c", (gpu.lora, .01))
    gpu.main(["--tiny", "--parts", "a,c,d", "--minutes", "20", "--out", str(tmp_path / "gpu.json")])
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert parts["a"]["ended"] == "failed, exit status 1: ValueError: no such card" and parts["a"]["kept"] == 1
    assert parts["c"]["ended"].startswith("stopped after") and parts["c"]["kept"] == 2
    assert parts["d"]["ended"] == "done" and KEYS["d"] <= parts["d"].keys()


@pytest.mark.parametrize("words", [["--tiny"], ["--device", "cpu"]])
def test_what_measures_nothing_leaves_no_record(words, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "repo_root", lambda: tmp_path)
    monkeypatch.setattr(gpu, "command", lambda *_: stub("print('{}')"))
    gpu.main([*words, "--parts", "d"])
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.json")] == ["runs/benchmarks/gpu.json"]


def test_a_way_that_fails_is_named_and_rounds_end_in_time():
    def broken(_): raise RuntimeError("no compiler\nis here")
    ways = dict(fine=lambda _: lambda: sum(range(1000)), broken=broken)
    seconds, missing = gpu.take_turns(ways, 3, "cpu", 0)
    assert [set(turn) for turn in seconds] == [{"fine"}]
    assert missing == dict(rounds=1, rounds_left_out=2, failed=dict(broken="RuntimeError: no compiler is here"))
    assert gpu.compared(seconds, dict(ratio=("broken", "fine"))) == {}


@pytest.mark.parametrize("words, message", [(["--parts", "a,x"], "no part 'x': choose from"), *[([], "no GPU is here")] * (not torch.cuda.is_available())])
def test_what_cannot_be_asked_for(words, message, capsys):
    with pytest.raises(SystemExit): gpu.main(words)
    assert message in capsys.readouterr().err


def test_networks_have_the_size_of_stable_diffusion():
    pipe, net = networks("sd14", "", "meta")
    count = lambda part: sum(p.numel() for p in part.parameters())
    assert [count(part) for part in (pipe.unet, pipe.vae, pipe.text_encoder)] == [859_520_964, 83_653_863, 123_060_480]
    assert count(net.body) == 23_508_032 # ResNet-50 without its last layer


def test_operations_are_those_of_a_real_run():
    pipe, net = networks("tiny", "", "cpu")
    config = Guidance(num_inference_steps=4, guidance_steps=1, stop=1., classifier_size=0, checkpointing=False)
    start = make_starts(PROMPTS, IDS, config)[0]
    slots, rows = Slots(pipe, 1, config.num_inference_steps, config.rates), {0: Guided(start)}
    slots.enter(0, start)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH): # fused attention is not counted on a CPU
        while turn(pipe, net, slots, rows, config): pass
    assert count_operations(*networks("tiny", "", "meta")).image(vars(config)) == pytest.approx(counter.get_total_flops(), rel=.01)


def test_product_rate_is_positive():
    assert gpu.matmul_rate("cpu", 64) > 0


plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()


def needed(names: set[str]) -> set[str]: # These packages and all that they need
    found, todo = set(), {plain(name) for name in names}
    while todo:
        found |= (here := todo)
        wants = [Requirement(text) for name in here for text in (importlib.metadata.requires(name) or [])]
        todo = {plain(r.name) for r in wants if not r.marker or r.marker.evaluate(dict(extra=""))} - found
        todo = {name for name in todo if any(importlib.metadata.distributions(name=name))}
    return found


def test_wheels_and_what_is_there_are_enough_for_the_chain():
    script = (ROOT / "benchmarks/gpu_wheels.sh").read_text()
    listed = lambda name: set(re.search(rf'^{name}="([^"]*)"', script, re.M)[1].split())
    there, wheels = needed(listed("THERE")), {plain(name) for name in listed("WHEELS")}
    assert not wheels & there, "what is there is not taken along"
    owners = importlib.metadata.packages_distributions()
    lacking = {module for module, names in owners.items() if not {"logex-nb", *there, *wheels} & {plain(name) for name in names}}
    assert {"papermill", "snakemake", "seaborn"} <= lacking
    code = f"""
import runpy, sys
class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, *more): return None if name.partition(".")[0] in {lacking} else self.finder.find_spec(name, *more)
sys.meta_path = [Without(finder) for finder in sys.meta_path]
sys.path.insert(0, "benchmarks")
sys.argv[1:] = "--tiny --child e --until 1e12".split()
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""
    done = subprocess.run(stub(code), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert KEYS["e"] <= json.loads(done.stdout.splitlines()[-1]).keys()
