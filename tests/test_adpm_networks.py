"The paper's other networks: rows of their own, with bodies from a hub"
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import EfficientNetConfig, MobileNetV2Config, PvtV2Config, SwinConfig, ViTConfig

from logex_nb.adpm.guesses import prior_logits, train_prior
from logex_nb.adpm.views import open_views
from logex_nb.classify.backbones import build_backbone
from logex_nb.classify.hub import HubBody
from logex_nb.report.published import published
from logex_nb.run.study import Study
from test_adpm_training import CLASSES, IDS, LABELS

SMALL = dict(
    vit=ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, patch_size=16, image_size=32),
    efficientnet=EfficientNetConfig(width_coefficient=.1, depth_coefficient=.1, hidden_dim=128),
    mobilenet=MobileNetV2Config(depth_multiplier=.1, finegrained_output=False),
    pvt=PvtV2Config(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1]))
NETWORKS = ["resnet50", "efficientnet", "vit", "mobilenet", "pvt"]


@pytest.mark.parametrize("arm", NETWORKS)
def test_a_network_is_a_row_at_full_size_alone(arm):
    full, mini = (Study("adpm", profile, "phantom") for profile in ("paper", "mini"))
    assert arm in full.table() and arm not in mini.table()
    tables = [published(f"adpm_table{k}") for k in (4, 8, 9)]
    assert any((t.method == full.arms[arm].published).any() for t in tables)
    config = full.training(arm)
    assert "/" in config.backbone and not config.weights and not config.frozen and not config.crops


@pytest.mark.parametrize("arm", SMALL)
def test_a_network_from_a_folder_learns(tmp_path, arm):
    "With the settings of its row, but for the size"
    HubBody(SMALL[arm]).model.save_pretrained(tmp_path / "hub")
    config = replace(Study("adpm", "paper", "phantom").training(arm), backbone=str(tmp_path / "hub"), size=64, epochs=2, batch=16, lr=1e-2)
    images = np.random.default_rng(0).integers(0, 256, (len(LABELS), 32, 32, 3), np.uint8)
    images[LABELS == 1] //= 4 # dark ones
    views = open_views(config, images, tmp_path, config.crops > 0)
    begun = [p.detach().clone() for p in views.parameters()]
    net = train_prior(views, LABELS, IDS, CLASSES, config, 0, tmp_path, progress=False)
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(begun, views.parameters()))
    logits = prior_logits(net, views, np.arange(len(LABELS)), config)
    assert logits.shape == (3, len(LABELS), len(CLASSES)) and np.isfinite(logits).all()


def test_no_network_without_its_weights(tmp_path, monkeypatch):
    "Without a network connection, a hub id is an error that says what is possible"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = Study("adpm", "paper", "phantom").training("vit")
    with pytest.raises(FileNotFoundError, match="google/vit-base-patch16-224@.* is not on this machine and could not be had: .*bring config.json, model.safetensors"):
        open_views(config, np.zeros((1, 8, 8, 3), np.uint8), tmp_path)


def test_weights_that_lack_something_are_refused(tmp_path):
    model = HubBody(SMALL["mobilenet"]).model
    kept = {key: value for key, value in model.state_dict().items() if "conv_1x1" not in key}
    model.save_pretrained(tmp_path, state_dict=kept)
    with pytest.raises(ValueError, match="weights at .* lack 6 tensors"): build_backbone(str(tmp_path), 3)


def test_tokens_that_are_no_grid_are_refused():
    "Swin merges patches from stage to stage"
    swin = SwinConfig(image_size=64, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4)
    with pytest.raises(ValueError, match="SwinModel gives 64 tokens for 16 x 16 patches: choose a body that keeps one token per patch"): HubBody(swin)


def test_running_statistics_are_of_many_batches():
    "Keras' momentum of .99 would keep the last batch alone"
    body, x = HubBody(SMALL["efficientnet"]).train(), torch.rand(8, 3, 64, 64)
    first = next(m for m in body.modules() if isinstance(m, torch.nn.BatchNorm2d))
    before = first.running_mean.clone()
    with torch.no_grad():
        body(x)
        once = first.running_mean - before
        body(x)
    torch.testing.assert_close(first.running_mean - before, 1.9 * once, rtol=1e-4, atol=1e-6)
