"What a plan counts against what is counted while it runs"
import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from logex_nb.classify.backbones import build_backbone
from logex_nb.classify.training import Training, train
from logex_nb.data.protocols import make_split
from logex_nb.generate.guidance import Guidance, guide, make_starts
from logex_nb.generate.lora import Lora, train_lora
from logex_nb.generate.pipeline import build_pipeline, ddim_scheduler, tiny
from logex_nb.run.price import Counts, count_operations, counts_of, price, stage_price
from logex_nb.run.study import Study


def counted(f) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH): f() # fused attention is not counted on a CPU
    return counter.get_total_flops()


def test_steps_of_a_lora(tmp_path):
    "The difference of two lengths, as images are encoded only once"
    study, images = Study("logex", "smoke", "phantom"), np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)

    def run(steps):
        pipe = build_pipeline(["a picture"], study.settings("architecture"))
        return counted(lambda: train_lora(pipe, images, ["a picture"] * 4, Lora(steps=steps, batch=2, accumulation=3), 0, tmp_path / str(steps), progress=False))

    told = stage_price(study, "lora tail set0", dict(lora=vars(Lora(steps=3, batch=2, accumulation=3))), None)["operations"]
    assert .5 < told / (run(4) - run(1)) < 2


def test_a_classifier_that_learns(tmp_path, tiny_backbone):
    study, counts, random = Study("logex", "smoke", "phantom"), Counts(train=24, asked=8, all=32, head=2, tail=2), np.random.default_rng(0)
    recipe, images, labels = Training(backbone="tiny", epochs=3, batch=8, size=32), random.integers(0, 256, (32, 32, 32, 3), np.uint8), np.arange(32) % 4
    real = counted(lambda: train(images[:24], labels[:24], images[24:], labels[24:], list("abcd"), [2, 3], recipe, 0, tmp_path, progress=False))
    assert .5 < stage_price(study, "classifier ce seed0", dict(training=vars(recipe)), counts)["operations"] / real < 2


@pytest.mark.parametrize("deep", [0, 2])
def test_images_whose_gradient_runs_back_so_far(deep):
    def there(device): # Generator and guide
        with torch.device(device): pipe, net = tiny(), build_backbone("small", 4)
        pipe.scheduler = ddim_scheduler()
        for part in (pipe.unet, pipe.vae, pipe.text_encoder, net): part.eval().requires_grad_(False).to(device)
        return pipe, net

    config = Guidance(num_inference_steps=6, guidance_steps=2, loss_steps=2, gradient_steps=deep, stop=1., classifier_size=0, checkpointing=False, per_class=1, batch=1)
    real = counted(lambda: list(guide(*there("cpu"), make_starts({"red": "a red picture"}, {"red": 0}, config), config)))
    assert count_operations(*there("meta")).image(vars(config)) == pytest.approx(real, rel=.1)


def test_a_frozen_body_looks_at_an_image_once():
    study = Study("logex", "mini", "phantom")
    split = make_split(study.source.open(), study.settings("protocol"))
    fit = lambda arm, seed: dict(name=f"classifier {arm} seed{seed}", settings=dict(training=vars(study.training(arm)), arm=dict(add=study.arms[arm].add)))
    pflop = lambda *jobs: price(study, jobs, split, {}).loc["all", "PFLOP"]
    ce = pflop(fit("ce", 0))
    assert pflop(fit("ce", 0), fit("ce", 1), fit("oversampling", 0)) == pytest.approx(ce)
    assert pflop(fit("ce", 0), fit("logex", 0)) == pytest.approx(pflop(fit("ce", 0), fit("logex", 0), fit("logex", 1))) # they share a set
    assert counts_of(study, split).train < counts_of(study, split).all and ce < pflop(fit("ce", 0), fit("logex", 0))


def test_a_page_that_trains_its_arms(tiny_backbone):
    "As many trainings as it makes"
    study, counts = Study("logex", "smoke", "phantom"), Counts(train=24, asked=8, all=32, head=2, tail=2)
    recipe = vars(Training(backbone="tiny", epochs=3, size=32))
    one = stage_price(study, "classifier ce seed0", dict(training=recipe), counts)["operations"]
    settings = dict(arms=dict(ce={}, ldam={}), recipes=dict(ce=recipe, ldam=recipe), draws=6, seeds=[0, 1])
    assert stage_price(study, "draws", settings, counts)["operations"] == pytest.approx(2 * 6 * 2 * one)


def test_folds_and_an_archive_that_is_absent(tmp_path, tiny_backbone):
    "A plan goes on; folds and painted rows are counted, too"
    assert Study("isic", "paper", f"isic2019:{tmp_path}").listed.empty
    study = Study("isic", "smoke", "phantom_skin")
    counts = counts_of(study, make_split(study.source.open(), study.settings("protocol")))
    assert counts.train > 0 and counts.train + counts.asked == counts.all # one fold of several
    settings = dict(training=vars(Training(backbone="tiny", size=32)), arm=dict(add=study.arms["selected"].add))
    assert stage_price(study, "classifier selected group0 seed0", settings, counts)["operations"] > 0
