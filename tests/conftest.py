"What several test files need"
import shutil
from pathlib import Path

import pytest
import torch

from logex_nb.classify.backbones import SIZES

TINY = dict(layer_type="basic", depths=[1, 1], hidden_sizes=[8, 16], embedding_size=8)


@pytest.fixture
def tiny_backbone(monkeypatch):
    "A backbone 'tiny' that trains in moments; one thread, as more only wait for each other at this size"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setitem(SIZES, "tiny", TINY)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items):
    "Files that run chains begin: one of them, left for the end, would keep every other process waiting"
    items.sort(key=lambda item: not item.path.name.startswith(("test_run_", "test_workflow")))


@pytest.fixture
def checkout(tmp_path):
    "A copy of the sources, with what the chain at smoke size has made of one paper's stages: `checkout('data', 'lora/tail')`"
    root, made = Path(__file__).parent.parent, Path("runs/smoke/phantom/logex")

    def copied(*stages):
        for name in ("logex_nb", "nbs", "profiles"): shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("*.png", "__pycache__")) # a link would lead back
        for name in ("Snakefile", "settings.ini"): (tmp_path / name).symlink_to(root / name)
        for place in (*(made / stage for stage in stages), Path(".snakemake/metadata")): shutil.copytree(root / place, tmp_path / place)
        return tmp_path
    return copied
