"What several test files need"
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
