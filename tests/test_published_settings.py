"Published settings, with where they are printed: a default that moves away from its paper is noticed"
from dataclasses import fields

import pytest

from logex_nb.adpm.diffusion import LabelSampling
from logex_nb.adpm.noise import LabelScheduler
from logex_nb.adpm.priors import Prior
from logex_nb.adpm.training import LabelDiffusion
from logex_nb.classify.training import Training
from logex_nb.generate.batching import Sampling
from logex_nb.generate.guidance import Guidance
from logex_nb.generate.lora import Lora
from logex_nb.report.published import published
from logex_nb.run.study import Study

# setting, value, source
PUBLISHED = {
    Training: [
        ("backbone", "50", "LoGex's text"), ("epochs", 60, "LoGex's text"), ("batch", 128, "command in LoGex's README"),
        ("lr", 1e-4, "command in LoGex's README"), ("min_lr", 1e-5, "command in LoGex's README"), ("weight_decay", .01, "AdamW's default, as no flag changes it"),
        ("beta", .9999, "LoGex's code; Cui et al. 2019"), ("max_margin", .5, "LoGex's code; Cao et al. 2019"), ("scale", 30., "LoGex's code; Cao et al. 2019"),
        ("logit_scale", 1., "LoGex's code"), ("hflip", .5, "LoGex's code"), ("vflip", .5, "LoGex's code"), ("rotation", 15., "LoGex's code"),
        ("select", "paper", "LoGex's text"), ("bn_mode", "paper", "LoGex's code"), ("reduction", "mean", "LoGex's code"), ("precision", "fp32", "LoGex's code")],
    Lora: [
        ("rank", 4, "LoGex, Table 4"), ("lr", 1e-4, "LoGex, Table 4"), ("steps", 15000, "LoGex, Table 4"), ("hflip", True, "LoGex, Table 4"),
        ("head", 0, "LoGex, section 3: the tail's images alone"), ("min_snr", 0, "LoGex names no weights"),
        ("batch", 1, "recipe of the script that LoGex names"), ("accumulation", 4, "recipe of the script that LoGex names"),
        ("warmup", 0, "recipe of the script that LoGex names"), ("clip", 1., "recipe of the script that LoGex names"),
        ("weight_decay", 1e-2, "the script's default"), ("seed", 1337, "recipe of the script that LoGex names"),
        ("modules", "all", "the script adapts every attention layer"), ("alpha", 0, "the script scales by one")],
    Sampling: [
        ("num_inference_steps", 20, "LoGex's code"), ("guidance_scale", 3., "LoGex's code"), ("per_class", 100, "LoGex, section 4.1"),
        ("precision", "fp32", "LoGex's code"), ("shared_latents", False, "LoGex, section 3")],
    Guidance: [
        ("guidance_steps", 20, "LoGex's code"), ("guidance_lr", .01, "LoGex's code"), ("latent_lr", .001, "LoGex's code"), ("stop", .4, "LoGex, section 3"),
        ("objective", "confidence", "LoGex's code"), ("loss_steps", 3, "LoGex's code"), ("gradient_steps", 0, "DiG-IN: through the whole chain"),
        ("optimise_latent", True, "LoGex, section 3"), ("optimise_cond", True, "LoGex, section 2.1"), ("optimise_uncond", True, "LoGex's code"),
        ("classifier_size", 256, "LoGex's code"), ("antialias", False, "LoGex's code")],
    Prior: [
        ("backbone", "50", "DiffMIC's code"), ("crops", 6, "DiffMIC's code"), ("side", 1, "DiffMIC's code: 32 pixels of 224"), ("attention", 128, "DiffMIC's code"),
        ("loss", "ce", "DiffMIC's code"), ("branch_loss", "fused", "DiffMIC's code"), ("epochs", 15, "ADPM's text; DiffMIC's code"), ("batch", 32, "ADPM's text"),
        ("lr", 2e-4, "DiffMIC's code"), ("min_lr", 2e-4, "DiffMIC's code: constant"), ("rotation", 30., "DiffMIC's code"), ("size", 224, "DiffMIC's code")],
    LabelDiffusion: [
        ("width", 6144, "DiffMIC's code"), ("time", "table", "DiffMIC's code"), ("image", "attention", "ADPM's text"), ("epochs", 1000, "ADPM's text"),
        ("batch", 32, "ADPM's text"), ("lr", 1e-3, "ADPM's text"), ("warmup", 40, "DiffMIC's code"), ("prior_lr", 2e-4, "DiffMIC's code"),
        ("weight_decay", 0., "DiffMIC's code"), ("clip_grad", 1., "DiffMIC's code"), ("ema", 0., "DiffMIC's code never reads its average"),
        ("alpha", 1 / 6, "ADPM, Table 2"), ("kappa", 5., "ADPM, Table 2"), ("mmd_weight", .5, "DiffMIC's code"), ("branches", True, "DiffMIC's code"),
        ("rotation", 30., "DiffMIC's code"), ("backbone", "18", "DiffMIC's code"), ("size", 224, "DiffMIC's code")],
    LabelSampling: [
        ("sampler", "truncated", "DiffMIC's code"), ("steps", 250, "ADPM's text; DiffMIC's code"), ("samples", 1, "DiffMIC's code"),
        ("level", "prior", "ADPM, eq. 18"), ("blend", 0., "DiffMIC's code")],
}
ALL = [(cls, *row) for cls, rows in PUBLISHED.items() for row in rows]


@pytest.mark.parametrize("cls, setting, value, source", ALL, ids=lambda x: getattr(x, "__name__", str(x)))
def test_a_default_is_the_published_value(cls, setting, value, source):
    default = {f.name: f.default for f in fields(cls)}[setting]
    assert (default, type(default)) == (value, type(value)), f"{cls.__name__}.{setting} is {default!r}; {source} has {value!r}"


def test_the_noise_schedule_is_the_published_one():
    "DiffMIC's code, as CARD's: a thousand steps from 1e-4 to .02, evenly spaced"
    betas = LabelScheduler().betas
    assert (len(betas), *map(float, betas[[0, -1]])) == (1000, pytest.approx(1e-4), pytest.approx(.02))
    assert betas.diff().std() < 1e-8


# Where LoGex's text and its released code differ: profile, section, setting, value, source
DIFFER = [
    ("paper_text", "training", "bn_mode", "clean", "the text is silent"), ("paper_code", "training", "bn_mode", "paper", "evaluation mode from the second epoch"),
    ("paper_text", "training", "min_lr", 0., "a cosine, section 4.1"), ("paper_code", "training", "min_lr", 1e-5, "command in the README"),
    ("paper_text", "lora", "modules", "cross", "cross-attention layers, section 3"), ("paper_code", "lora", "modules", "all", "the script that it names"),
    ("paper_text", "guidance", "optimise_uncond", False, "section 2.1"), ("paper_code", "guidance", "optimise_uncond", True, "the guidance scripts"),
    ("paper_text", "guidance", "classifier_size", 395, "the size it learned at"), ("paper_code", "guidance", "classifier_size", 256, "the classifier's wrapper"),
    ("paper_text", "guidance", "antialias", True, "the text is silent"), ("paper_code", "guidance", "antialias", False, "the default of that version"),
    ("paper_text", "guidance", "legacy_double_step", False, "the text is silent"), ("paper_code", "guidance", "legacy_double_step", True, "the pipeline asks the scheduler twice"),
    ("paper_text", "guidance", "shared_latents", False, "the text is silent"), ("paper_code", "guidance", "shared_latents", True, "names of the released images"),
]


@pytest.mark.parametrize("profile, section, setting, value, source", DIFFER)
def test_text_and_code_are_profiles_of_their_own(profile, section, setting, value, source):
    assert getattr(Study("logex", profile, "phantom").settings(section), setting) == value, source


def test_what_text_and_code_share_is_no_difference():
    told = {(section, setting) for _, section, setting, *_ in DIFFER}
    for section in ("training", "lora", "guidance"):
        text, code = (Study("logex", name, "phantom").settings(section) for name in ("paper_text", "paper_code"))
        assert {(section, f.name) for f in fields(text) if getattr(text, f.name) != getattr(code, f.name)} == {pair for pair in told if pair[0] == section}


@pytest.mark.parametrize("profile", ["paper_text", "paper_code"])
def test_their_rows_are_the_papers(profile):
    study = Study("logex", profile, "phantom")
    names = set(published("logex_table2").method)
    assert names == {arm.published or "FG-Entropy" for arm in study.table().values()}
