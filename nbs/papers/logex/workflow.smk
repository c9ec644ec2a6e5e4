# Which notebook of LoGex makes which file. A stage is done when its record.json is there, which it writes last;
# everything else in its folder stays out of `output`, so that a stage that died can resume from it.
from logex_nb.data.sources import files_below, locate
from logex_nb.run.workflow import Stage, needs_of, share_name, study_of

study = study_of(config)
SEEDS = [int(s) for s in str(config["seeds"]).split(",")]
POOL, ROWS, FIRST = study.pool, study.table(), study.generation(0)
BY_STAGE = {stage: "|".join(k for k, g in study.generators.items() if g.stage == stage) for stage in ("images", "outliers", "released")}
GUIDES = "|".join({g.guide for g in study.generators.values() if g.stage == "images"})
ASKED = dict(seeds=str(config["seeds"]), rows=study.rows)


# What papers share

module shared_data:
    snakefile: "../../stages/data.smk"
    config: config

module shared_base:
    snakefile: "../../stages/base.smk"
    config: config

module shared_autoencoder:
    snakefile: "../../stages/autoencoder.smk"
    config: config

module shared_lora:
    snakefile: "../../stages/lora.smk"
    config: config

module shared_classifier:
    snakefile: "../../stages/classifier.smk"
    config: config

use rule * from shared_data
use rule * from shared_base
use rule * from shared_autoencoder
use rule * from shared_lora
use rule classifier from shared_classifier

# LoRAs and classifiers that guide come first: generation waits for them
use rule classifier from shared_classifier as guide with:
    wildcard_constraints: arm=GUIDES, seed=r"\d+"
    priority: 4

ruleorder: guide > classifier


# What can be asked for

def stage(name, *parts, **parameters):
    return Stage(study, name, parts, parameters)


def records(name, *parts):
    return stage(name, *map(str, parts)).record


def trained(arms, seeds=SEEDS):
    return [records(study.arms[k].trainer, k, f"seed{s}") for k in arms for s in seeds]


def drawn(generators):
    return [records(study.generators[g].stage, g, FIRST) for g in generators]


rule all:
    localrule: True
    default_target: True
    input: [p for t, about in study.about["targets"].items() if not about.get("alone") and (POOL or not about.get("pool")) for p in stage(t).outputs]


# Images. One core each: generators side by side draw 1.2 times as much as one on two cores, a classifier fits beside one,
# and the pictures do not depend on how many cores there are. Idle cores help, at the lowest priority

images = stage("images", "{generator}", "{generation}", generator="{generator}", generation="{generation}")
outliers = stage("outliers", "{generator}", "{generation}", generator="{generator}", generation="{generation}")


def steered_by(w):
    "LoRA and classifier of a generator: each set of images has its own"
    chosen = study.generators[w.generator]
    lora = [records("lora", chosen.lora, w.generation)] if chosen.lora else []
    return [*trained([chosen.guide], [int(w.generation.removeprefix("set"))]), *lora]


def guide_of(w):
    return study.arms[study.generators[w.generator].guide]


def sampling(w):
    return study.sampling(w.generator, study.generation_seed(w.generation))


rule images:
    input: records("data"), records("base"), steered_by
    output: images.outputs
    wildcard_constraints: generator=BY_STAGE["images"], generation=r"set\d+"
    params: made_of=lambda w: images.made_of(w, prompt=study.choices.prompt, generator=study.generators[w.generator], sampling=sampling(w))
    threads: images.threads
    priority: 3
    resources: gpu=1
    shell: images.command


# The same images, dealt to several jobs: what `images` finds there it takes (SHARES=n)

shared = stage("images", "{generator}", "{generation}", *share_name("{share}", "{shares}"), generator="{generator}", generation="{generation}", share="{share}", shares="{shares}")

rule images_share:
    input: records("data"), records("base"), steered_by
    output: shared.outputs
    wildcard_constraints: generator="|".join(k for k, g in study.generators.items() if g.stage == "images" and not study.lora_each(k)), generation=r"set\d+", share=r"\d+", shares=r"\d+"
    params: made_of=lambda w: shared.made_of(w, prompt=study.choices.prompt, generator=study.generators[w.generator], sampling=sampling(w))
    threads: images.threads
    resources: gpu=1
    shell: shared.command


# Real images of the pool, of which the generator has redrawn a part

redrawn = stage("redrawn", "{percent}", percent="{percent}")


rule redrawn:
    input: records("data"), records("base"), lambda w: [records("lora", "tail", FIRST)] if int(w.percent) else []
    output: redrawn.outputs
    wildcard_constraints: percent=r"\d+"
    params: made_of=lambda w: redrawn.made_of(w, prompt=study.choices.prompt, guidance=study.settings("guidance"), most=study.most_redrawn(int(w.percent)))
    threads: redrawn.threads
    resources: gpu=1
    shell: redrawn.command


# How far images lie from the real ones of their class, for arms that choose

scores = stage("scores", "{generator}", "{kind}", "{generation}", generator="{generator}", kind="{kind}", generation="{generation}")


rule scores:
    input: records("data"), lambda w: records(study.generators[w.generator].stage, w.generator, w.generation), lambda w: trained([study.settings("selection").classifier], [int(w.generation.removeprefix("set"))])
    output: scores.outputs
    wildcard_constraints: generator="|".join(study.generators), kind="guided|start", generation=r"set\d+"
    params: made_of=lambda w: scores.made_of(w, selection=study.settings("selection"))
    threads: scores.threads
    resources: gpu=1
    shell: scores.command


# Images that were published

released = stage("released", "{generator}", "{generation}", generator="{generator}", generation="{generation}")


def pictures(w):
    return [str(locate(study.sampling(w.generator).folder) / name) for name, *_ in files_below(locate(study.sampling(w.generator).folder))]


rule released:
    input: records("data"), pictures
    output: released.outputs
    wildcard_constraints: generator=BY_STAGE["released"], generation=r"set\d+"
    params: made_of=lambda w: released.made_of(w, released=study.sampling(w.generator))
    threads: released.threads
    shell: released.command


rule outliers:
    input: records("data"), records("base"), lambda w: [records("autoencoder")] if guide_of(w).section in study.choices.decoded else [],
           lambda w: [records("lora", "tail", w.generation)] if study.settings("dream_ood").lora else []
    output: outliers.outputs
    wildcard_constraints: generator=BY_STAGE["outliers"], generation=r"set\d+"
    params: made_of=lambda w: outliers.made_of(w, training=study.settings(guide_of(w).section), decoded=guide_of(w).section in study.choices.decoded, sampling=sampling(w))
    threads: outliers.threads
    priority: 2
    resources: gpu=1
    shell: outliers.command


# The detector of Dream-OOD

energy = stage("energy", "{arm}", "seed{seed}", arm="{arm}", seed="{seed}")


def learned(w):
    return dict(training=study.training(w.arm), arm=study.arms[w.arm], decoded=study.decoded(w.arm))


rule energy:
    input: lambda w: needs_of(study, w.arm, w.seed)
    output: energy.outputs
    wildcard_constraints: arm="|".join(k for k, arm in study.arms.items() if arm.trainer == "energy"), seed=r"\d+"
    params: made_of=lambda w: energy.made_of(w, energy=study.settings("energy"), **learned(w))
    threads: energy.threads
    resources: gpu=1
    shell: energy.command


# Rows that train nothing

nearest = stage("nearest", "{arm}", "seed{seed}", arm="{arm}", seed="{seed}")


rule nearest:
    input: records("data")
    output: nearest.outputs
    wildcard_constraints: arm="|".join(k for k, arm in study.arms.items() if arm.trainer == "nearest"), seed=r"\d+"
    params: made_of=lambda w: nearest.made_of(w, nearest=study.training(w.arm), training=study.settings("training"), arm=study.arms[w.arm])
    threads: nearest.threads
    resources: gpu=1
    shell: nearest.command


# Tables and figures

table2 = stage("table2", **ASKED)

rule table2:
    input: trained(ROWS)
    output: table2.outputs
    params: made_of=lambda w: table2.made_of(w, rows=list(ROWS), seeds=SEEDS)
    shell: table2.command


# Its first rows from the network that guides, or those of them that ROWS names
SMALL = [k for k, arm in study.arms.items() if arm.section == "guide_training" and k.startswith("small_") and (POOL or not arm.bound)]
SMALL = [k for k in SMALL if k in ROWS] or SMALL
small = stage("table2", "small", seeds=ASKED["seeds"], rows=",".join(SMALL), part="small")

rule table2_small:
    input: trained(SMALL)
    output: small.outputs
    params: made_of=lambda w: small.made_of(w, rows=SMALL, seeds=SEEDS)
    shell: small.command


cost = stage("cost", **ASKED)

rule cost:
    input: records("table2"), trained(ROWS), drawn({g for arm in ROWS.values() for g in arm.generators})
    output: cost.outputs
    params: made_of=lambda w: cost.made_of(w, rows=list(ROWS), seeds=SEEDS)
    shell: cost.command


# Table 3 with ten shots and with fifty, and the six of its scores that are Table 1

table3 = stage("table3", arm="ce", seeds=ASKED["seeds"])

rule table3:
    input: trained(["ce"])
    output: table3.outputs
    params: made_of=lambda w: table3.made_of(w, arm="ce", seeds=SEEDS)
    shell: table3.command


fifty = stage("table3", "fifty", arm="fifty", seeds=ASKED["seeds"])

rule table3_fifty:
    input: trained(["fifty"])
    output: fifty.outputs
    params: made_of=lambda w: fifty.made_of(w, arm="fifty", seeds=SEEDS)
    shell: fifty.command


table1 = stage("table1", seeds=ASKED["seeds"])

rule table1:
    input: records("data"), records("table3")
    output: table1.outputs
    params: made_of=lambda w: table1.made_of(w, arm="ce", seeds=SEEDS)
    shell: table1.command


ladder = stage("ladder", seeds=ASKED["seeds"])
RUNGS = ["ce", "ceiling", *(arm for arm, about in study.arms.items() if about.redrawn)]

rule ladder:
    input: records("data"), trained(RUNGS)
    output: ladder.outputs
    params: made_of=lambda w: ladder.made_of(w, rungs=RUNGS, seeds=SEEDS)
    resources: gpu=1
    shell: ladder.command


# Pages that train many classifiers by themselves

def recipes_of(rows):
    return dict(arms={arm: study.arms[arm] for arm in rows}, recipes={arm: study.training(arm) for arm in rows})


draws = stage("draws", seeds=ASKED["seeds"])

rule draws:
    input: records("data")
    output: draws.outputs
    params: made_of=lambda w: draws.made_of(w, **recipes_of(study.choices.draw_rows), draws=study.choices.draws, seeds=SEEDS)
    threads: draws.threads
    resources: gpu=1
    shell: draws.command


tuning = stage("tuning", seeds=ASKED["seeds"])

rule tuning:
    input: records("data"), drawn({g for arm in study.choices.tuned_rows for g in study.arms[arm].generators})
    output: tuning.outputs
    params: made_of=lambda w: tuning.made_of(w, **recipes_of(study.choices.tuned_rows), seeds=SEEDS)
    threads: tuning.threads
    resources: gpu=1
    shell: tuning.command


selection = stage("selection", seeds=ASKED["seeds"])

rule selection:
    input: records("data"), [(records("images", "logex", study.generation(s)), records("scores", "logex", "guided", study.generation(s))) for s in SEEDS]
    output: selection.outputs
    params: made_of=lambda w: selection.made_of(w, **recipes_of(["ce", "logex"]), selection=study.settings("selection"), seeds=SEEDS)
    threads: selection.threads
    resources: gpu=1
    shell: selection.command


autoencoders = stage("autoencoders", seeds=ASKED["seeds"])

FORMS = dict(forms=study.autoencoders, tunings={form: study.tuning(form) for form in study.autoencoders}, base=study.choices.base, prompt=study.choices.prompt, architecture=study.settings("architecture"), pretrain=study.settings("pretrain"))

rule autoencoders:
    input: records("data"), records("base")
    output: autoencoders.outputs
    params: made_of=lambda w: autoencoders.made_of(w, **recipes_of(["ce"]), **FORMS, seeds=SEEDS)
    threads: autoencoders.threads
    resources: gpu=1
    shell: autoencoders.command


bases = stage("bases", seeds=ASKED["seeds"])

BASES = dict(prompt=study.choices.prompt, pretrain=study.settings("pretrain"), lora=study.settings("lora", **study.differences("loras", "tail")), guidance=study.settings("guidance"))

rule bases:
    input: records("data"), records("base"), records("lora", "tail", FIRST), trained(["oracle"], [0])
    output: bases.outputs
    params: made_of=lambda w: bases.made_of(w, **recipes_of(["ce"]), **BASES, seeds=SEEDS)
    threads: bases.threads
    resources: gpu=1
    shell: bases.command


figure2 = stage("figure2", generation=FIRST)

rule figure2:
    input: records("data"), drawn(["logex"]), trained(["oracle"], [0])
    output: figure2.outputs
    params: made_of=lambda w: figure2.made_of(w)
    resources: gpu=1
    shell: figure2.command


figure3 = stage("figure3", seeds=ASKED["seeds"])
POINTS = study.points(study.choices.counts, study.settings("guidance").per_class, "ce", "logex", "only_lora")

rule figure3:
    input: trained(POINTS.values())
    output: figure3.outputs
    params: made_of=lambda w: figure3.made_of(w, points=POINTS, seeds=SEEDS)
    shell: figure3.command


figure4 = stage("figure4")

rule figure4:
    input: records("data")
    output: figure4.outputs
    params: made_of=lambda w: figure4.made_of(w)
    shell: figure4.command


# Generators whose images show the class that they were asked for
DRAWN = list(dict.fromkeys(["logex", *(g for arm in ROWS.values() if arm.tail_named for g in arm.generators)]))
oracle = stage("oracle", generation=FIRST, generators=",".join(DRAWN))

rule oracle:
    input: records("data"), records("base"), drawn(DRAWN), trained(["oracle"], [0])
    output: oracle.outputs
    params: made_of=lambda w: oracle.made_of(w, generators=DRAWN)
    resources: gpu=1
    shell: oracle.command


quality = stage("quality", generation=FIRST, generators=",".join(DRAWN))

rule quality:
    input: records("data"), records("base"), drawn(DRAWN), trained(["oracle", "ce", "only_lora", "logex"], [0])
    output: quality.outputs
    params: made_of=lambda w: quality.made_of(w, generators=DRAWN)
    resources: gpu=1
    shell: quality.command


ablation = stage("ablation", generation=FIRST)

rule ablation:
    input: records("data"), drawn(["logex", *study.variants()]), trained(["oracle"], [0])
    output: ablation.outputs
    params: made_of=lambda w: ablation.made_of(w, variants=list(study.variants()), images=study.choices.variant_images)
    resources: gpu=1
    shell: ablation.command
