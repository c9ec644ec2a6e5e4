"The benchmark of a GPU runs on small networks, keeps what it finds when a part fails"
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu  # noqa: E402
from guidance import IDS, PROMPTS, networks  # noqa: E402

from logex_nb.generate.batching import Slots
from logex_nb.generate.guidance import Guidance, Guided, make_starts, turn

KEYS = dict(a={"images_per_hour", "tflops", "share_of_bf16_product", "memory"}, b={"milliseconds", "compiler"}, c={"steps_per_second"},
            d={"images_per_second"}, e={"stage_seconds", "guided_images", "fpr95"})
RATIOS = dict(a=3, b=5, c=2, d=1, e=0)


def numbers(x) -> list[float]:
    if isinstance(x, (dict, list)): return [n for part in (x.values() if isinstance(x, dict) else x) for n in numbers(part)]
    return [x] if isinstance(x, float) else []


@pytest.mark.parametrize("name", "abcde")
def test_a_part_finds_what_it_is_for(name):
    torch.manual_seed(0)
    found = {}
    for more in gpu.PARTS[name][0](gpu.TINY, math.inf): found |= more
    assert KEYS[name] <= found.keys() and not found.get("failed") and not found.get("rounds_left_out")
    assert len(found.get("ratios", {})) == RATIOS[name] and all(r["median"] > 0 for r in found.get("ratios", {}).values())
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


def test_a_way_that_fails_is_named_and_rounds_end_in_time():
    def broken(_): raise RuntimeError("no compiler\nis here")
    ways = dict(fine=lambda _: lambda: sum(range(1000)), broken=broken)
    seconds, missing = gpu.take_turns(ways, 3, "cpu", 0)
    assert [set(turn) for turn in seconds] == [{"fine"}]
    assert missing == dict(rounds=1, rounds_left_out=2, failed=dict(broken="RuntimeError: no compiler is here"))
    assert gpu.compared(seconds, dict(ratio=("broken", "fine"))) == {}


@pytest.mark.parametrize("words, message", [(["--tiny"], "--out"), (["--device", "cpu"], "--out"), (["--parts", "a,x"], "no part 'x': choose from"),
                                            *[([], "no GPU is here")] * (not torch.cuda.is_available())])
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
    assert gpu.operations(*networks("tiny", "", "meta"), config) == pytest.approx(counter.get_total_flops(), rel=.01)


def test_product_rate_is_positive():
    assert gpu.matmul_rate("cpu", 64) > 0
