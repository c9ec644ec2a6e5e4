# Which notebook makes which file. A stage is done when its record.json is there, which it writes last;
# everything else in its folder stays out of `output`, so that a stage that died can resume from it.
from glob import glob
from shlex import quote

from logex_nb.core import load_config, sha256
from logex_nb.data.sources import files_of, short_name
from logex_nb.run.study import (
    generation_folder, generators, has_pool, load_study, lora_settings, methods, points, rows, sampler_settings, section_class,
    training_config, variants)

PROFILE = config.get("profile", "smoke")
SOURCE = config.get("dataset", "phantom")
DATASET = short_name(SOURCE)
SEEDS = [int(s) for s in str(config.get("seeds", 0)).split(",")]
ROWS = config.get("rows") or ""
STUDY = load_study(PROFILE, DATASET, ROWS)
METHODS, GENERATORS = methods(), generators()
POOL = has_pool(PROFILE, SOURCE)
RUNS = f"runs/{PROFILE}/{DATASET}"
RESULTS = f"{STUDY.results}/{PROFILE}/{DATASET}"
LOGEX = "nbs/papers/logex"
COMMON = f"profile={PROFILE} {quote('dataset=' + SOURCE)}"


def record(*parts):
    return "/".join([RUNS, *map(str, parts), "record.json"])


def modules(*names):
    "The exported modules that a stage uses: an edit of one of them makes the stage run again"
    found = [sorted(glob(f"logex_nb/{n}.py")) for n in ("core", *names)]
    if not all(found): raise FileNotFoundError(f"one of the modules {names} is missing: run make export")
    return sum(found, [])


def made(target):
    "Results are in git, so their records are there before anything ran here: this file is not"
    return f"{RUNS}/made/logex_{target}"


def digest(*things):
    return sha256(str(things).encode())[:16]


def settings(section, **special):
    "Resolved settings: Snakemake runs a stage again when they change, and only then"
    return load_config(section_class(section), PROFILE, DATASET, **special)


WORDS = STUDY.base, STUDY.prompt, STUDY.generation_seed


def generation(seed):
    return generation_folder(STUDY, int(seed))


# real training images as the autoencoder returns them, where the study shows classifiers both
DECODED = [record("decoded")] if STUDY.decoded else []


def images_for(wildcards):
    "A classifier's training images: the split, and the generated ones where its row asks for them"
    needs = [record("data"), *DECODED]
    row = METHODS[wildcards.method]
    if row.synthetic: needs.append(record("synthetic", row.generator, generation(wildcards.seed)))
    return needs


wildcard_constraints:
    method="|".join(METHODS),
    generator="|".join(GENERATORS),
    seed=r"\d+",
    generation=r"shared|seed\d+",


# what needs an oracle needs a pool
TARGETS = ["table1", "table2", "table3", "figure3", "figure4", "cost",
           *(["figure2", "oracle", "ablation", "quality"] if POOL else [])]


rule logex:
    localrule: True
    input: expand(f"{RESULTS}/logex_{{what}}/record.json", what=TARGETS), [made(t) for t in TARGETS]


for target in [*TARGETS, "table3_fifty"]:
    rule:
        name: f"logex_{target}"
        localrule: True
        input: f"{RESULTS}/logex_{target}/record.json", made(target)


rule data:
    input: f"{LOGEX}/data.ipynb", modules("data/*", "phantom/*")
    output: record("data")
    params: digest(settings("source"), settings("split"), files_of(SOURCE))
    threads: 2
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON}"


rule base:
    input: f"{LOGEX}/base.ipynb", record("data"), modules("generate/pipeline", "generate/pretraining")
    output: record("base")
    params: digest(WORDS, settings("architecture"), settings("pretrain"))
    threads: 2
    resources: gpu=1
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON}"


rule autoencoder:
    input: f"{LOGEX}/autoencoder.ipynb", record("data"), record("base"), modules("generate/pipeline")
    output: record("decoded")
    threads: 1
    priority: 6
    resources: gpu=1
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON}"


rule lora:
    input: f"{LOGEX}/lora.ipynb", record("data"), record("base"), modules("generate/pipeline", "generate/lora")
    output: record("lora", "{lora}", "{generation}")
    params: lambda w: digest(WORDS, settings("lora", **lora_settings(PROFILE, w.lora)))
    threads: 1
    priority: 5
    resources: gpu=1
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON} lora={wildcards.lora} generation={wildcards.generation}"


# LoRAs and classifiers that guide come first: generation waits for them
GUIDES = {g.guide for g in GENERATORS.values()}


rule classifier:
    wildcard_constraints: method="|".join(k for k, m in METHODS.items() if m.detector == "classifier" and k not in GUIDES)
    input: f"{LOGEX}/classifier.ipynb", images_for,
           modules("classify/*", "detect/tail", "generate/manifest", "generate/training_images")
    output: record("classifier", "{method}", "seed{seed}")
    params: lambda w: digest(METHODS[w.method], training_config(PROFILE, DATASET, w.method), STUDY.decoded)
    threads: 1
    resources: gpu=1
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON} method={wildcards.method} seed={wildcards.seed}"


use rule classifier as guide_classifier with:
    wildcard_constraints: method="|".join(GUIDES)
    priority: 4


def guide(wildcards):
    "LoRA and classifier of a generator: a shared one takes seed 0, another its own"
    chosen = GENERATORS[wildcards.generator]
    seed = 0 if wildcards.generation == "shared" else wildcards.generation.removeprefix("seed")
    lora = [record("lora", chosen.lora, wildcards.generation)] if chosen.lora else []
    return [record("classifier", chosen.guide, f"seed{seed}"), *lora]


def sampling(wildcards):
    section = GENERATORS[wildcards.generator].sampler
    return digest(WORDS, settings(section, **sampler_settings(PROFILE, DATASET, wildcards.generator)))


# One core each: generators side by side draw 1.2 times as much as one on two cores, a classifier fits beside one,
# and the pictures do not depend on how many cores there are. Idle cores help, at the lowest priority
rule generate:
    input: f"{LOGEX}/images.ipynb", record("data"), record("base"), guide,
           modules(*(f"generate/{m}" for m in ("pipeline", "sampler", "batching", "guidance", "baselines", "helpers", "manifest")))
    output: record("synthetic", "{generator}", "{generation}")
    wildcard_constraints: generator="|".join(k for k, g in GENERATORS.items() if g.sampler != "dreamood")
    params: sampling
    threads: 1
    priority: 3
    resources: gpu=1
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON} generator={wildcards.generator} generation={wildcards.generation}"


rule outliers:
    input: f"{LOGEX}/outliers.ipynb", record("data"), record("base"), DECODED,
           lambda w: [record("lora", "tail", w.generation)] if settings("dreamood").lora else [],
           modules("classify/*", *(f"generate/{m}" for m in ("pipeline", "sampler", "batching", "outliers", "dream_ood", "manifest")))
    output: record("synthetic", "{generator}", "{generation}")
    wildcard_constraints: generator="|".join(k for k, g in GENERATORS.items() if g.sampler == "dreamood")
    params: digest(WORDS, settings("dreamood"), settings("training"))
    threads: 1
    priority: 2
    resources: gpu=1
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON} generation={wildcards.generation}"


rule energy:
    input: f"{LOGEX}/energy.ipynb", images_for,
           modules("classify/*", "detect/tail", "generate/manifest", "generate/training_images")
    output: record("classifier", "{method}", "seed{seed}")
    wildcard_constraints: method="|".join(k for k, m in METHODS.items() if m.detector == "energy")
    params: lambda w: digest(METHODS[w.method], training_config(PROFILE, DATASET, w.method), settings("energy"), STUDY.decoded)
    threads: 1
    resources: gpu=1
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON} method={wildcards.method} seed={wildcards.seed}"


rule table2:
    input: f"{LOGEX}/table2.ipynb",
           [record("classifier", m, f"seed{s}") for m in rows(STUDY, POOL) for s in SEEDS],
           modules("detect/*", "report/*")
    output: f"{RESULTS}/logex_table2/record.json", touch(made("table2"))
    params: seeds=",".join(map(str, SEEDS)), only=ROWS
    shell: "logex_run {input[0]} $(dirname {output[0]}) {COMMON} seeds={params.seeds} only={params.only}"


rule figure2:
    input: f"{LOGEX}/figure2.ipynb", record("data"), record("synthetic", "logex", generation(SEEDS[0])),
           record("classifier", "oracle", "seed0"), modules("report/figures")
    output: f"{RESULTS}/logex_figure2/record.json", touch(made("figure2"))
    params: generation=generation(SEEDS[0])
    shell: "logex_run {input[0]} $(dirname {output[0]}) {COMMON} generation={params.generation}"


rule figure3:
    input: f"{LOGEX}/figure3.ipynb",
           [record("classifier", m, f"seed{s}") for m in points(STUDY, settings("guidance").per_class).values() for s in SEEDS],
           modules("detect/metrics", "detect/tail", "report/*")
    output: f"{RESULTS}/logex_figure3/record.json", touch(made("figure3"))
    params: seeds=",".join(map(str, SEEDS))
    shell: "logex_run {input[0]} $(dirname {output[0]}) {COMMON} seeds={params.seeds}"


# generators whose images show the class that they were asked for
DRAWN = list(dict.fromkeys(["logex", *(m.generator for m in rows(STUDY, POOL).values() if m.synthetic and m.tail_named)]))


rule oracle:
    input: f"{LOGEX}/oracle.ipynb", record("data"), [record("synthetic", g, generation(SEEDS[0])) for g in DRAWN],
           record("classifier", "oracle", "seed0"), modules("report/*")
    output: f"{RESULTS}/logex_oracle/record.json", touch(made("oracle"))
    params: generation=generation(SEEDS[0]), generators=",".join(DRAWN)
    shell: "logex_run {input[0]} $(dirname {output[0]}) {COMMON} generation={params.generation} generators={params.generators}"


rule quality:
    input: f"{LOGEX}/quality.ipynb", record("data"), record("base"), [record("synthetic", g, generation(SEEDS[0])) for g in DRAWN],
           [record("classifier", m, "seed0") for m in ("oracle", "ce", "only_lora", "logex")],
           modules("judge/quality", "report/*")
    output: f"{RESULTS}/logex_quality/record.json", touch(made("quality"))
    params: generation=generation(SEEDS[0]), generators=",".join(DRAWN)
    shell: "logex_run {input[0]} $(dirname {output[0]}) {COMMON} generation={params.generation} generators={params.generators}"


rule ablation:
    input: f"{LOGEX}/ablation.ipynb", record("data"),
           [record("synthetic", g, generation(SEEDS[0])) for g in ("logex", *variants(STUDY))],
           record("classifier", "oracle", "seed0"), modules("report/*")
    output: f"{RESULTS}/logex_ablation/record.json", touch(made("ablation"))
    params: generation=generation(SEEDS[0])
    shell: "logex_run {input[0]} $(dirname {output[0]}) {COMMON} generation={params.generation}"


rule cost:
    input: f"{LOGEX}/cost.ipynb", f"{RESULTS}/logex_table2/record.json", made("table2"), modules("report/*")
    output: f"{RESULTS}/logex_cost/record.json", touch(made("cost"))
    params: seeds=",".join(map(str, SEEDS)), only=ROWS
    shell: "logex_run {input[0]} $(dirname {output[0]}) {COMMON} seeds={params.seeds} only={params.only}"


rule scores:
    input: f"{LOGEX}/scores.ipynb", [record("classifier", "ce", f"seed{s}") for s in SEEDS],
           modules("detect/*", "report/*")
    output: f"{RESULTS}/logex_table{{table}}/record.json", touch(made("table{table}"))
    wildcard_constraints: table="1|3"
    params: seeds=",".join(map(str, SEEDS))
    shell: "logex_run {input[0]} $(dirname {output[0]}) {COMMON} seeds={params.seeds} table={wildcards.table}"


rule scores_of:
    "Table 3 for the classifiers of another row, such as fifty shots"
    input: f"{LOGEX}/scores.ipynb", lambda w: [record("classifier", w.method, f"seed{s}") for s in SEEDS],
           modules("detect/*", "report/*")
    output: f"{RESULTS}/logex_table3_{{method}}/record.json", touch(made("table3_{method}"))
    params: seeds=",".join(map(str, SEEDS))
    shell: "logex_run {input[0]} $(dirname {output[0]}) {COMMON} seeds={params.seeds} table=3 method={wildcards.method}"


rule figure4:
    input: f"{LOGEX}/figure4.ipynb", record("data"), modules("data/protocols", "report/figures")
    output: f"{RESULTS}/logex_figure4/record.json", touch(made("figure4"))
    shell: "logex_run {input[0]} $(dirname {output[0]}) {COMMON}"
