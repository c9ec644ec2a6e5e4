# Which notebook of ADPM makes which file. A stage is done when its record.json is there, which it writes last.
from logex_nb.run.workflow import Stage, study_of

study = study_of(config)
SEEDS = [int(s) for s in str(config["seeds"]).split(",")]
ROWS = study.table()
ASKED = dict(seeds=str(config["seeds"]), rows=study.rows)


# What papers share

module shared_data:
    snakefile: "../../stages/data.smk"
    config: config

module shared_features:
    snakefile: "../../stages/features.smk"
    config: config

use rule * from shared_data
use rule * from shared_features


# What can be asked for

def stage(name, *parts, **parameters):
    return Stage(study, name, parts, parameters)


def records(name, *parts):
    return stage(name, *map(str, parts)).record


LAST = dict(prior="prior", denoiser="samples") # The stage whose outputs a table reads, by trainer


def judged(arms, seeds=SEEDS):
    return [records(LAST[study.arms[k].trainer], k, f"seed{s}") for k in arms for s in seeds]


def of(trainer):
    return "|".join(k for k, arm in study.arms.items() if arm.trainer == trainer)


def seen(w):
    "Images, and what a frozen trunk saw in them"
    return [records("data"), *([records("features")] if study.training(w.arm).frozen else [])]


rule all:
    localrule: True
    default_target: True
    input: [p for t, about in study.about["targets"].items() if not about.get("alone") for p in stage(t).outputs]


# Learning

prior = stage("prior", "{arm}", "seed{seed}", arm="{arm}", seed="{seed}")

rule prior:
    input: seen
    output: prior.outputs
    wildcard_constraints: arm=of("prior"), seed=r"\d+"
    params: made_of=lambda w: prior.made_of(w, prior=study.training(w.arm))
    threads: prior.threads
    priority: 3
    resources: gpu=1
    shell: prior.command


denoiser = stage("denoiser", "{arm}", "seed{seed}", arm="{arm}", seed="{seed}")

rule denoiser:
    input: seen, lambda w: records("prior", study.training(w.arm).prior, f"seed{w.seed}")
    output: denoiser.outputs
    wildcard_constraints: arm=of("denoiser"), seed=r"\d+"
    params: made_of=lambda w: denoiser.made_of(w, label_diffusion=study.training(w.arm))
    threads: denoiser.threads
    priority: 2
    resources: gpu=1
    shell: denoiser.command


samples = stage("samples", "{arm}", "seed{seed}", arm="{arm}", seed="{seed}")


def ways(w):
    chosen = study.training(w.arm)
    return {name: study.settings("label_sampling", **study.differences("samplers", name)) for name in (chosen.sampling, *chosen.further)}


rule samples:
    input: seen, lambda w: records("denoiser", w.arm, f"seed{w.seed}")
    output: samples.outputs
    wildcard_constraints: arm=of("denoiser"), seed=r"\d+"
    params: made_of=lambda w: samples.made_of(w, label_diffusion=study.training(w.arm), samplers=ways(w))
    threads: samples.threads
    resources: gpu=1
    shell: samples.command


# Tables and figures

comparison = stage("comparison", **ASKED)
PUBLISHED = study.about["published"]

rule comparison:
    input: judged(ROWS)
    output: comparison.outputs
    params: made_of=lambda w: comparison.made_of(w, rows=list(ROWS), seeds=SEEDS, published=PUBLISHED["comparison"].get(study.name, ""))
    shell: comparison.command


# Table 2 on the first two seeds; Figures 4 and 5 look at its denoisers

GRID = SEEDS[:2]
GUESSED = [records("prior", study.training("anisotropic").prior, f"seed{s}") for s in GRID]
grid = stage("grid", seeds=",".join(map(str, GRID)))

rule grid:
    input: records("data"), [records("features")] if study.training("anisotropic").frozen else [], GUESSED
    output: grid.outputs
    params: made_of=lambda w: grid.made_of(w, label_diffusion=study.training("anisotropic"), label_sampling=study.settings("label_sampling", **study.differences("samplers", "strided")), alphas=study.choices.alphas, kappas=study.choices.kappas, epochs=study.choices.grid_epochs, seeds=GRID)
    threads: grid.threads
    resources: gpu=1
    shell: grid.command


embedding = stage("embedding", seeds=",".join(map(str, GRID)))

rule embedding:
    input: grid.outputs, [records("denoiser", "anisotropic", f"seed{s}") for s in GRID], GUESSED
    output: embedding.outputs
    params: made_of=lambda w: embedding.made_of(w, label_diffusion=study.training("anisotropic"), label_sampling=study.settings("label_sampling", **study.differences("samplers", "strided") | dict(samples=1)), seeds=GRID)
    threads: embedding.threads
    resources: gpu=1
    shell: embedding.command


# Table 3, and where the gain comes from: arms that are judged, and the prior networks that they start from

def with_own_prior(arms):
    "Diffusion is held against the guess that it began with"
    return list(dict.fromkeys([*arms, *(study.training(k).prior for k in arms if study.arms[k].trainer == "denoiser")]))


ablation = stage("ablation", seeds=ASKED["seeds"])
ABLATION = list(study.choices.ablation or study.about["ablation"]["rows"])

rule ablation:
    input: judged(with_own_prior(ABLATION))
    output: ablation.outputs
    params: made_of=lambda w: ablation.made_of(w, rows=ABLATION, asked=study.about["ablation"], seeds=SEEDS)
    shell: ablation.command


controls = stage("controls", seeds=ASKED["seeds"])
CONTROLLED = list(dict.fromkeys(row.partition("/")[0] for control in study.about["controls"].values() for row in control["rows"]))
CONTROLS = [k for k in CONTROLLED if k in (study.choices.controls or CONTROLLED)]

rule controls:
    input: judged(with_own_prior(CONTROLS))
    output: controls.outputs
    params: made_of=lambda w: controls.made_of(w, arms=CONTROLS, asked=study.about["controls"], seeds=SEEDS)
    shell: controls.command


by_class = stage("by_class", **ASKED)
BY_CLASS = [k for k in study.choices.by_class if k in ROWS] or list(ROWS)

rule by_class:
    input: judged(BY_CLASS)
    output: by_class.outputs
    params: made_of=lambda w: by_class.made_of(w, rows=BY_CLASS, seeds=SEEDS, published=PUBLISHED["by_class"].get(study.name, ""))
    shell: by_class.command


datasets = stage("datasets")
NOISE = {k: v for k, v in vars(study.settings("label_diffusion")).items() if k in ("form", "alpha", "kappa", "min_count")}

rule datasets:
    input: records("data")
    output: datasets.outputs
    params: made_of=lambda w: datasets.made_of(w, published=PUBLISHED["datasets"].get(study.name, ""), noise=NOISE)
    shell: datasets.command
