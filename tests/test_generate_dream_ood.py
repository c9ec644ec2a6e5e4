"Dream-OOD against the published steps written out plainly, hostile input, and runs that are interrupted or changed"
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from logex_nb.classify import energy
from logex_nb.classify.backbones import build_backbone
from logex_nb.classify.energy import Energy, _paired_batches, load_detector, train_detector
from logex_nb.classify.outputs import load_outputs, predict, save_outputs
from logex_nb.classify.training import Training
from logex_nb.core import sha256
from logex_nb.detect.tail import p_tail
from logex_nb.generate import dream_ood
from logex_nb.generate.dream_ood import dream, encode_replaced
from logex_nb.generate.guidance import make_starts
from logex_nb.generate.manifest import generate_folder
from logex_nb.generate.outliers import (
    AnchorHead, DreamOod, anchor_tokens, anchors, find_outliers, outliers, train_encoder)
from logex_nb.generate.pipeline import encode_prompts, load_pipeline, tiny

NOUNS = ["hair follicle", "nerves", "squamous cell carcinoma"]
TEMPLATE = "an image of the {noun}"
PROMPTS, IDS = {n: TEMPLATE.format(noun=n) for n in NOUNS}, {n: i for i, n in enumerate(NOUNS)}
CONFIG = DreamOod(num_inference_steps=2, per_class=2, batch=4, prompt=TEMPLATE, stored=20, neighbours=6,
                  boundary=4, picked=2, repeats=2, draws=50, spread=.2)
RECIPE = Training(backbone="tiny", epochs=3, batch=8, lr=1e-2, bn_mode="clean")
pytestmark = pytest.mark.usefixtures("tiny_backbone")


@pytest.fixture(scope="module")
def pipe(): return tiny(list(PROMPTS.values()) * 3, text_layers=2, text_length=40, vocabulary=600)


def tiles(counts, seed):
    rng, labels = np.random.default_rng(seed), np.repeat(np.arange(len(counts)), counts)
    colour = np.array([[200, 90, 160], [120, 80, 190], [160, 90, 170]])[labels]
    return np.clip(rng.normal(colour[:, None, None], 40, (len(labels), 16, 16, 3)), 0, 255).astype(np.uint8), labels


def setting(pipe):
    torch.manual_seed(0)
    words, encoder = anchors(pipe, NOUNS, TEMPLATE), build_backbone("tiny", 3).eval()
    encoder.head = AnchorHead(16, words)
    found = {n: F.normalize(w + .1 * torch.randn(4, 16)) * w.norm() for n, w in zip(NOUNS, words)}
    return encoder, found


def places(pipe): return dict(zip(NOUNS, (place for place, _ in anchor_tokens(pipe, NOUNS, TEMPLATE))))


def test_names_that_begin_alike_have_anchors_of_their_own(pipe):
    "The later one takes a token further on, and that one is replaced"
    mini, names = load_pipeline("mini"), ["bkl", "bcc", "benign keratosis", "benign naevus"]
    found = anchor_tokens(mini, names)
    assert len({token for _, token in found}) == 4 and found[1][0] > found[0][0]
    words, texts = anchors(mini, names), [DreamOod.prompt.format(noun=n) for n in names]
    assert torch.equal(encode_replaced(mini, texts, [place for place, _ in found], words), encode_prompts(mini, texts))


def test_outliers_are_those_of_the_published_steps():
    "One point at a time, all distances sorted; the same draws in the same order"
    cloud = F.normalize(torch.randn(20, 8, generator=torch.Generator().manual_seed(3)))
    config, generator, plain = replace(CONFIG, repeats=3), torch.Generator().manual_seed(5), []
    kth = lambda x: (cloud - x).norm(dim=1).sort().values[config.neighbours - 1]
    edge = torch.stack([kth(x) for x in cloud]).argsort(descending=True)[:config.boundary]
    for _ in range(config.repeats):
        for i in torch.randperm(config.boundary, generator=generator)[:config.picked]:
            steps = torch.randn(config.draws, 8, generator=generator)
            ends = [F.normalize(cloud[edge[i]] + config.spread * s, dim=0) for s in steps]
            plain += sorted(ends, key=kth, reverse=True)[:config.kept]
    torch.testing.assert_close(outliers(cloud, config, 5), torch.stack(plain))


def test_many_images_are_thinned_and_few_are_told():
    cloud = F.normalize(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert outliers(cloud, CONFIG, 0).shape == (2 * 2 * 2, 8)
    with pytest.warns(UserWarning, match="10 images where 20 are asked for"):
        assert outliers(cloud[:10], CONFIG, 0).shape == (2 * 1 * 2, 8)
    with pytest.raises(ValueError, match="3 images have no edge"): outliers(cloud[:3], CONFIG, 0)


def test_the_shipped_pipeline_spells_names_and_takes_an_outlier():
    mini, prompt = load_pipeline("mini"), DreamOod.prompt
    names = ["melanoma", "squamous cell carcinoma", "hair follicle", "nerves"]
    words, texts = anchors(mini, names, prompt), [prompt.format(noun=n) for n in names]
    assert max(len(mini.tokenizer.tokenize(n)) for n in names) > 3
    assert torch.equal(encode_replaced(mini, texts, [place for place, _ in anchor_tokens(mini, names, prompt)], words), encode_prompts(mini, texts))


def test_the_hook_is_gone_after_an_error(pipe, monkeypatch):
    before = encode_prompts(pipe, ["an image"])
    with monkeypatch.context() as m:
        m.setattr(dream_ood, "encode_prompts", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError): encode_replaced(pipe, ["an image"], [1], torch.ones(1, 16))
    assert torch.equal(encode_prompts(pipe, ["an image"]), before)


def test_a_token_that_occurs_twice_is_replaced_once(pipe):
    "Where the original's edit of the table would reach both"
    prompt, word = "nerves beside the {noun}", anchors(pipe, ["nerves"], "nerves beside the {noun}")
    at = anchor_tokens(pipe, ["nerves"], prompt)[0][0]
    changed = encode_replaced(pipe, [prompt.format(noun="nerves")], [at], -word)
    assert torch.allclose(changed[:, :at], encode_prompts(pipe, [prompt.format(noun="nerves")])[:, :at], atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_images_do_not_depend_on_the_batch(pipe, batch):
    encoder, found = setting(pipe)
    starts = make_starts(PROMPTS, IDS, CONFIG)
    draw = lambda starts, n: {g.start: g.image.astype(int) for g in dream(pipe, encoder, starts, replace(CONFIG, batch=n), found, places(pipe))}
    whole, other = draw(starts, 3), draw(starts[::-1], batch)
    assert max(np.abs(whole[s] - other[s]).max() for s in starts) <= 1


def test_seeds_choose_noise_and_outlier(pipe):
    encoder, found = setting(pipe)
    first = lambda config: next(dream(pipe, encoder, make_starts(PROMPTS, IDS, config), config, found, places(pipe)))
    a, b = first(CONFIG), first(replace(CONFIG, seed=1))
    assert a.start.seed != b.start.seed and (a.unguided != b.unguided).any()
    assert np.array_equal(first(CONFIG).image, a.image)


def test_another_encoder_makes_other_images(pipe, tmp_path):
    encoder, found = setting(pipe)
    fill = lambda encoder, **more: generate_folder(pipe, encoder, PROMPTS, IDS, CONFIG, tmp_path, progress=False, make=partial(dream, found=found, places=places(pipe)), **more)
    made = fill(encoder)
    with torch.no_grad(): encoder.head.weight += 1
    with pytest.raises(ValueError, match="weights"): fill(encoder)
    assert fill(encoder, stale="aside").guided_sha256.tolist() == made.guided_sha256.tolist() # found is the same
    assert len(list(tmp_path.rglob("*.png"))) == 2 * len(made)


def test_encoder_and_outliers_are_not_another_runs(pipe, tmp_path):
    (x, y), words = tiles([12, 12, 12], 0), anchors(pipe, NOUNS, TEMPLATE)
    run = lambda config: train_encoder(x, y, words, config, RECIPE, tmp_path)
    first = run(CONFIG)
    found = find_outliers(first, x, y, words, replace(CONFIG, stored=12), tmp_path)
    before = {p.name: sha256(p) for p in tmp_path.glob("*.safetensors")}
    find_outliers(run(CONFIG), x, y, words, replace(CONFIG, stored=12), tmp_path)
    assert {p.name: sha256(p) for p in tmp_path.glob("*.safetensors")} == before
    other = run(replace(CONFIG, seed=1))
    assert not torch.equal(other.head.weight, first.head.weight)
    assert not torch.equal(find_outliers(other, x, y, words, replace(CONFIG, stored=12), tmp_path)[0], found[0])


def detector(folder, seed=0, **changes):
    (x, y), (out, _), (vx, vy) = tiles([14, 14], 0), tiles([0, 0, 9], 2), tiles([6, 6, 6], 1)
    data = dict(images=x, labels=y, outside=out, val_images=vx, val_labels=vy, tail=[2]) | changes
    return train_detector(**data, config=Energy(hidden=16), recipe=RECIPE, seed=seed, folder=folder), vx, vy


@pytest.mark.parametrize("stop", [1, 2])
def test_a_detector_resumes_bitwise(tmp_path, monkeypatch, stop):
    whole, calls = detector(tmp_path / "whole")[0], []
    def power_cut(*args, **how):
        calls.append(1)
        if len(calls) > stop: raise OSError("power cut")
        return predict(*args, **how)
    with monkeypatch.context() as m:
        m.setattr(energy, "predict", power_cut)
        with pytest.raises(OSError): detector(tmp_path / "cut")
    again = detector(tmp_path / "cut")[0]
    assert all(map(torch.equal, again.state_dict().values(), whole.state_dict().values()))
    other = detector(tmp_path / "other", seed=1)[0]
    assert not torch.equal(other.head.weight, whole.head.weight)


def test_outputs_read_back_hold_the_detectors_probability(tmp_path):
    found, x, y = detector(tmp_path)
    logits, features = predict(found, x)
    save_outputs(tmp_path, "test", logits, features, y, [str(i) for i in range(len(y))])
    with torch.inference_mode(): p = found.sides(found.net.logits(torch.tensor(features))).softmax(1)[:, 0]
    np.testing.assert_allclose(p_tail(load_outputs(tmp_path, "test")["logits"], [2]), p.numpy(), atol=1e-6)
    np.testing.assert_array_equal(predict(load_detector(tmp_path), x)[0], logits)


def test_class_ids_need_not_begin_with_the_head(tmp_path):
    "Head ids 1 and 2, tail 0"
    (_, y), (vx, vy) = tiles([14, 14], 0), tiles([6, 6, 6], 1)
    found, *_ = detector(tmp_path, labels=y + 1, val_labels=np.roll(vy, 0) + 1 - 3 * (vy == 2), tail=[0])
    logits, _ = predict(found, vx)
    assert (logits[:6, 1] > logits[:6, 2]).mean() > .5 and (logits[6:12, 2] > logits[6:12, 1]).mean() > .5


@pytest.mark.parametrize("changes, message", [
    (dict(outside=np.zeros((2, 16, 16), np.uint8)), "outside images are uint8"),
    (dict(outside=np.zeros((2, 16, 16, 3), np.float32)), "outside images are float32"),
    (dict(labels=np.zeros(28)), r"labels are \[0\]: expected images of all head classes \[0, 1\]"),
    (dict(labels=np.zeros(3)), "28 head images with 3 labels"),
    (dict(val_labels=np.full(18, 2)), "validation images lack a head class"),
])
def test_what_a_detector_refuses(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message): detector(tmp_path, **changes)


def test_more_from_outside_than_inside():
    pairs = _paired_batches(3, 100, 8, torch.Generator().manual_seed(0))
    assert [(len(a), len(b)) for a, b in pairs] == [(3, 3)]
