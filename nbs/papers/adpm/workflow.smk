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
    input: [records(t) for t, about in study.about["targets"].items() if not about.get("alone")]


# Learning

prior = stage("prior", "{arm}", "seed{seed}", arm="{arm}", seed="{seed}")

rule prior:
    input: seen
    output: prior.outputs
    wildcard_constraints: arm=of("prior"), seed=r"\d+"
    params: made_of=lambda w: prior.made_of(w, prior=study.training(w.arm))
    threads: 1
    priority: 3
    resources: gpu=1
    shell: prior.command


denoiser = stage("denoiser", "{arm}", "seed{seed}", arm="{arm}", seed="{seed}")

rule denoiser:
    input: seen, lambda w: records("prior", study.training(w.arm).prior, f"seed{w.seed}")
    output: denoiser.outputs
    wildcard_constraints: arm=of("denoiser"), seed=r"\d+"
    params: made_of=lambda w: denoiser.made_of(w, label_diffusion=study.training(w.arm))
    threads: 1
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
    threads: 1
    resources: gpu=1
    shell: samples.command


# Tables and figures

comparison = stage("comparison", **ASKED)
PUBLISHED = study.about["published"]

rule comparison:
    input: judged(ROWS)
    output: comparison.outputs
    params: made_of=comparison.made_of(None, rows=list(ROWS), seeds=SEEDS, published=PUBLISHED["comparison"].get(study.name, ""))
    shell: comparison.command


by_class = stage("by_class", **ASKED)
BY_CLASS = [k for k in study.choices.by_class if k in ROWS] or list(ROWS)

rule by_class:
    input: judged(BY_CLASS)
    output: by_class.outputs
    params: made_of=by_class.made_of(None, rows=BY_CLASS, seeds=SEEDS, published=PUBLISHED["by_class"].get(study.name, ""))
    shell: by_class.command


datasets = stage("datasets")
NOISE = {k: v for k, v in vars(study.settings("label_diffusion")).items() if k in ("form", "alpha", "kappa", "min_count")}

rule datasets:
    input: records("data")
    output: datasets.outputs
    params: made_of=datasets.made_of(None, published=PUBLISHED["datasets"].get(study.name, ""), noise=NOISE)
    shell: datasets.command
