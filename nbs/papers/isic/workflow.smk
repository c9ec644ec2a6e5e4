# Which notebook of the third paper makes which file. A stage is done when its record.json is there, which it writes last.
from logex_nb.run.workflow import Stage, share_name, study_of

study = study_of(config)
SEEDS = [int(s) for s in str(config["seeds"]).split(",")]
ROWS, FILLING = study.table(), study.settings("filling")
ASKED = dict(seeds=str(config["seeds"]), rows=study.rows)
FOLDS = [f"group{k}" for k in range(study.choices.folds)]
# Where no two images share a lesion, dealing them singly changes nothing
SINGLY = [f"image{k}" for k in range(study.choices.folds)] if study.listed.group.duplicated().any() else []
SWEPT = [name for name, arm in study.arms.items() if arm.keep in FILLING.gammas] # Among these, validation chooses


# What papers share

module shared_data:
    snakefile: "../../stages/data.smk"
    config: config

use rule * from shared_data


# What can be asked for

def stage(name, *parts, **parameters):
    return Stage(study, name, parts, parameters)


def records(name, *parts):
    return stage(name, *map(str, parts)).record


def trained(arms, folds, seeds=SEEDS):
    return [records("classifier", k, fold, f"seed{s}") for k in arms for fold in folds for s in seeds]


rule all:
    localrule: True
    default_target: True
    input: [p for t in study.about["targets"] for p in stage(t).outputs]


# Painting. Everything that learns sees the training images of its fold, and no others

wildcard_constraints: fold=r"(group|image)\d+", seed=r"\d+"

masks = stage("masks", "{fold}", fold="{fold}")
PAIRS = dict(masks=study.settings("masks"), pairs=study.choices.pairs, most=study.choices.most_pairs, size=study.settings("protocol").size)

rule masks:
    input: records("data")
    output: masks.outputs
    params: made_of=lambda w: masks.made_of(w, **PAIRS)
    threads: masks.threads
    priority: 5
    resources: gpu=1
    shell: masks.command


painter = stage("painter", "{fold}", fold="{fold}")
LEARNED = dict(base=study.choices.base, inpainting=study.settings("inpainting"), decoder_tuning=study.settings("decoder_tuning"))

rule painter:
    input: records("data"), lambda w: records("masks", w.fold)
    output: painter.outputs
    params: made_of=lambda w: painter.made_of(w, **LEARNED)
    threads: painter.threads
    priority: 4
    resources: gpu=1
    shell: painter.command


paintings = stage("paintings", "{generator}", "{fold}", generator="{generator}", fold="{fold}")

rule paintings:
    input: records("data"), lambda w: [records("masks", w.fold), records("painter", w.fold)]
    output: paintings.outputs
    wildcard_constraints: generator="|".join(study.generators)
    params: made_of=lambda w: paintings.made_of(w, filling=study.sampling(w.generator), sampling=study.settings("paint_sampling"))
    threads: paintings.threads
    priority: 3
    resources: gpu=1
    shell: paintings.command


# The same paintings, dealt to several jobs: what `paintings` finds there it takes (SHARES=n)
shared = stage("paintings", "{generator}", "{fold}", *share_name("{share}", "{shares}"), generator="{generator}", fold="{fold}", share="{share}", shares="{shares}")

rule paintings_share:
    input: records("data"), lambda w: [records("masks", w.fold), records("painter", w.fold)]
    output: shared.outputs
    wildcard_constraints: generator="|".join(study.generators), share=r"\d+", shares=r"\d+"
    params: made_of=lambda w: shared.made_of(w, filling=study.sampling(w.generator), sampling=study.settings("paint_sampling"))
    threads: paintings.threads
    resources: gpu=1
    shell: shared.command


scores = stage("scores", "{generator}", "{fold}", generator="{generator}", fold="{fold}", seed=str(SEEDS[0]))

rule scores:
    input: lambda w: [records("paintings", w.generator, w.fold), *trained([study.settings("selection").classifier], [w.fold], SEEDS[:1])]
    output: scores.outputs
    wildcard_constraints: generator="|".join(study.generators)
    params: made_of=lambda w: scores.made_of(w, selection=study.settings("selection"))
    threads: scores.threads
    priority: 2
    resources: gpu=1
    shell: scores.command


# Learning

classifier = stage("classifier", "{arm}", "{fold}", "seed{seed}", arm="{arm}", fold="{fold}", seed="{seed}")


def needs(w):
    add = study.arms[w.arm].add
    chosen = [records("share", w.fold)] if any("by" in a and "keep" not in a for a in add) else []
    scored = [records("scores", a["images"], w.fold) for a in add if "by" in a]
    return [records("data"), *(records("paintings", g, w.fold) for g in dict.fromkeys(study.arms[w.arm].generators)), *scored, *chosen]


rule classifier:
    input: needs
    output: classifier.outputs
    wildcard_constraints: arm="|".join(study.arms)
    params: made_of=lambda w: classifier.made_of(w, training=study.training(w.arm), arm=study.arms[w.arm], filling=FILLING)
    threads: classifier.threads
    resources: gpu=1
    shell: classifier.command


share = stage("share", "{fold}", fold="{fold}", seeds=ASKED["seeds"])

rule share:
    input: lambda w: trained(SWEPT, [w.fold])
    output: share.outputs
    params: made_of=lambda w: share.made_of(w, gammas=FILLING.gammas, seeds=SEEDS)
    threads: share.threads
    priority: 1
    shell: share.command


# Tables and figures

table = stage("table", **ASKED)

rule table:
    input: trained(ROWS, FOLDS)
    output: table.outputs
    params: made_of=lambda w: table.made_of(w, rows=list(ROWS), folds=FOLDS, seeds=SEEDS)
    shell: table.command


gamma = stage("gamma", seeds=ASKED["seeds"])

rule gamma:
    input: trained([*SWEPT, "random", "real"], FOLDS), [records("share", fold) for fold in FOLDS]
    output: gamma.outputs
    params: made_of=lambda w: gamma.made_of(w, gammas=FILLING.gammas, folds=FOLDS, seeds=SEEDS)
    shell: gamma.command


rejected = stage("rejected", fold=FOLDS[0])

rule rejected:
    input: records("scores", "inpainted", FOLDS[0]), records("share", FOLDS[0])
    output: rejected.outputs
    params: made_of=lambda w: rejected.made_of(w, filling=FILLING, selection=study.settings("selection"))
    shell: rejected.command


leakage = stage("leakage", seeds=ASKED["seeds"])

rule leakage:
    input: trained(study.choices.leakage, FOLDS + SINGLY)
    output: leakage.outputs
    params: made_of=lambda w: leakage.made_of(w, rows=list(study.choices.leakage), folds=FOLDS + SINGLY, seeds=SEEDS)
    shell: leakage.command


# Before anything is painted: how good are the masks, and what is left of real lesions?

dice = stage("dice")

rule dice:
    input: records("data")
    output: dice.outputs
    params: made_of=lambda w: dice.made_of(w, **PAIRS)
    threads: dice.threads
    resources: gpu=1
    shell: dice.command


ladder = stage("ladder", fold=FOLDS[0], seeds=ASKED["seeds"])

rule ladder:
    input: records("masks", FOLDS[0]), records("painter", FOLDS[0])
    output: ladder.outputs
    params: made_of=lambda w: ladder.made_of(w, training=study.training("real"), filling=FILLING, sampling=study.settings("paint_sampling"), seeds=SEEDS)
    threads: ladder.threads
    resources: gpu=1
    shell: ladder.command
