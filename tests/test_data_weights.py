"A hub id, its revision, and what a server that knows neither says"
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from logex_nb.core import read_toml, repo_root, sha256
from logex_nb.data.weights import BODY, PIPELINE, hub_id, weight_sums
from logex_nb.generate.pipeline import pipeline_sums, save_pipeline, tiny
from logex_nb.run.study import Study

COMMIT = "0123456789" * 4
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"no pickle", "model.fp16.safetensors": b"half"}


class Hub(BaseHTTPRequestHandler):
    "A hub that has one model, with one commit on its branch `main`"
    asked: list[str] = []

    def log_message(self, *_): pass
    def do_HEAD(self): self.do_GET()

    def do_GET(self):
        path, _, _ = self.path.partition("?")
        self.asked.append(path)
        if not path.startswith(("/api/models/owner/tiny", "/owner/tiny/")): return self._say(404, b"", {"X-Error-Code": "RepoNotFound"})
        if "/resolve/" in path and (name := path.rpartition("/")[2]) in FILES:
            return self._say(200, FILES[name], {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(FILES[name])}"'})
        revision = path.rpartition("/")[2] if "/revision/" in path or "/tree/" in path else "main"
        if revision not in ("main", COMMIT): return self._say(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if "/tree/" in path: return self._say(200, json.dumps([dict(type="file", path=name, size=len(data), oid=sha256(data)[:40]) for name, data in FILES.items()]).encode())
        self._say(200, json.dumps(dict(id="owner/tiny", sha=COMMIT, siblings=[dict(rfilename=name) for name in FILES])).encode())

    def _say(self, status, data, headers={}):
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(data)), "Content-Type": "application/json"} | headers).items(): self.send_header(key, value)
        self.end_headers()
        if self.command == "GET": self.wfile.write(data)


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def ask(hub, tmp_path, source):
    "In a process of its own, as the address of the hub is read once"
    code = f"from logex_nb.data.weights import *; print(weights_folder({source!r}, BODY), weight_sums({source!r}, BODY))"
    env = dict(HF_ENDPOINT=hub, HF_HOME=str(tmp_path), HF_HUB_DISABLE_XET="1", PATH="/usr/bin:/bin")
    return subprocess.run([sys.executable, "-c", code], env=env, cwd=repo_root(), capture_output=True, text=True)


def test_what_is_read_is_fetched_and_nothing_else(hub, tmp_path):
    done = ask(hub, tmp_path, f"owner/tiny@{COMMIT}")
    assert not done.returncode, done.stderr
    folder = Path(done.stdout.split()[0])
    assert folder.name == COMMIT and sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert f"{{'model.safetensors': '{sha256(b'weights')}'}}" in done.stdout
    Hub.asked.clear()
    assert not ask("http://127.0.0.1:9", tmp_path, f"owner/tiny@{COMMIT}").returncode # kept; nobody is asked again


@pytest.mark.parametrize("source, said", [
    ("owner/tiny@v7", "owner/tiny has no revision 'v7': choose a commit, tag or branch"),
    (f"owner/tiny@{'f' * 40}", f"owner/tiny has no revision '{'f' * 40}'"),
    ("owner/other", "huggingface.co has no model 'owner/other', or does not show it to you: check owner and name")])
def test_what_the_hub_does_not_have_is_told(hub, tmp_path, source, said):
    done = ask(hub, tmp_path, source)
    assert done.returncode and said in done.stderr.splitlines()[-1]


def test_without_a_network_the_line_says_what_to_bring(tmp_path):
    done = ask("http://127.0.0.1:9", tmp_path, f"owner/tiny@{COMMIT}")
    assert f"bring config.json, model.safetensors and, if there is one, preprocessor_config.json from https://huggingface.co/owner/tiny/tree/{COMMIT} in one folder" in done.stderr.splitlines()[-1]


def test_the_digests_are_those_of_the_files(tmp_path):
    save_pipeline(tiny(), tmp_path)
    found = pipeline_sums(tmp_path)
    assert found == {name: sha256(tmp_path / name) for name in ("text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors")}
    (tmp_path / "SHA256SUMS").unlink()
    with open(tmp_path / "unet/diffusion_pytorch_model.safetensors", "ab") as f: f.write(b" ")
    assert [name for name in found if pipeline_sums(tmp_path)[name] != found[name]] == ["unet/diffusion_pytorch_model.safetensors"]
    assert weight_sums(tmp_path / "none", PIPELINE) == weight_sums("imagenet", BODY) == {}


@pytest.mark.parametrize("profile", ["paper", "paper_text", "paper_code"])
def test_the_published_size_names_commits(profile):
    "What these names mean cannot change; two bodies of the second paper wait for somebody with a network to look their commits up"
    study = Study("logex", profile, "phantom")
    named = [study.choices.base, study.settings("training").weights, study.settings("guide_training").weights, Study("isic", profile, "phantom_skin").settings("training").weights]
    assert all(len(hub_id(name)[1]) == 40 for name in named), named
    moving = [arm["settings"]["backbone"] for arm in read_toml(repo_root() / "nbs/papers/adpm/arms.toml").values() if "/" in arm.get("settings", {}).get("backbone", "")]
    assert sorted(name for name in moving if "@" not in name) == ["OpenGVLab/pvt_v2_b1", "google/mobilenet_v2_1.0_224"]
