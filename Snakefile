# Which notebook makes which file. A stage is done when its record.json is there, which it writes last;
# everything else in its folder stays out of `output`, so that a stage that died can resume from it.
from glob import glob
from shlex import quote

from logex_nb.core import load_config, sha256
from logex_nb.data.datasets import short_name
from logex_nb.workflow import generation_folder, has_pool, load_study, methods, rows, section_class, training_config

PROFILE = config.get("profile", "smoke")
SOURCE = config.get("dataset", "phantom")
DATASET = short_name(SOURCE)
SEEDS = [int(s) for s in str(config.get("seeds", 0)).split(",")]
ROWS = config.get("rows") or ""
STUDY = load_study(PROFILE, DATASET, ROWS)
METHODS = methods()
POOL = has_pool(PROFILE, SOURCE)
RUNS = f"runs/{PROFILE}/{DATASET}"
RESULTS = f"{STUDY.results}/{PROFILE}/{DATASET}"
LOGEX = "nbs/experiments/logex"
COMMON = f"profile={PROFILE} {quote('dataset=' + SOURCE)}"


def record(*parts):
    return "/".join([RUNS, *map(str, parts), "record.json"])


def modules(*names):
    "The exported modules that a stage uses: an edit of one of them makes the stage run again"
    found = [sorted(glob(f"logex_nb/{n}.py")) for n in ("core", *names)]
    if not all(found): raise FileNotFoundError(f"one of the modules {names} is missing: run make export")
    return sum(found, [])


def settings(*sections):
    "Digest of resolved settings: Snakemake runs a stage again when they change, and only then"
    return sha256(str([load_config(section_class(s), PROFILE, DATASET) for s in sections]).encode())[:16]


def generation(seed):
    return generation_folder(STUDY, int(seed))


def images_for(wildcards):
    "A classifier's training images: the split, and the generated ones where its row asks for them"
    needs = [record("data"), *([record("base")] if STUDY.decoded else [])]
    if METHODS[wildcards.method].synthetic:
        needs.append(record("synthetic", generation(wildcards.seed)))
    return needs


wildcard_constraints:
    method="|".join(METHODS),
    seed=r"\d+",
    generation=r"shared|seed\d+",


localrules: logex, logex_table1, logex_table2, logex_table3, logex_table3_fifty, logex_figure2, logex_figure4


TARGETS = ["table1", "table2", "table3", "figure4", *(["figure2"] if POOL else [])]


rule logex:
    input: expand(f"{RESULTS}/logex_{{what}}/record.json", what=TARGETS)


rule logex_table1:
    input: f"{RESULTS}/logex_table1/record.json"


rule logex_table2:
    input: f"{RESULTS}/logex_table2/record.json"


rule logex_table3:
    input: f"{RESULTS}/logex_table3/record.json"


rule logex_table3_fifty:
    input: f"{RESULTS}/logex_table3_fifty/record.json"


rule logex_figure2:
    input: f"{RESULTS}/logex_figure2/record.json"


rule logex_figure4:
    input: f"{RESULTS}/logex_figure4/record.json"


rule data:
    input: f"{LOGEX}/split.ipynb", modules("data/*")
    output: record("data")
    params: settings("source", "split")
    threads: 2
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON}"


rule base:
    input: f"{LOGEX}/base.ipynb", record("data"), modules("generate/pipeline", "generate/pretraining")
    output: record("base")
    params: settings("study", "architecture", "pretrain")
    threads: 2
    resources: gpu=1
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON}"


rule lora:
    input: f"{LOGEX}/lora.ipynb", record("data"), record("base"), modules("generate/pipeline", "generate/lora")
    output: record("lora", "{generation}")
    params: settings("study", "lora")
    threads: 1
    priority: 2
    resources: gpu=1
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON} generation={wildcards.generation}"


rule classifier:
    input: f"{LOGEX}/classifier.ipynb", images_for,
           modules("classify/*", "detect/metrics")
    output: record("classifier", "{method}", "seed{seed}")
    params: lambda w: sha256(str([METHODS[w.method], training_config(PROFILE, DATASET, w.method), STUDY.decoded]).encode())[:16]
    threads: 1
    resources: gpu=1
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON} method={wildcards.method} seed={wildcards.seed}"


def guide(wildcards):
    "The auxiliary classifier belongs to the generator: seed 0 for a shared one, else the generator's own"
    seed = 0 if wildcards.generation == "shared" else wildcards.generation.removeprefix("seed")
    return record("classifier", "auxiliary", f"seed{seed}")


rule generate:
    input: f"{LOGEX}/generate.ipynb", record("data"), record("base"), record("lora", "{generation}"), guide,
           modules("generate/pipeline", "generate/sampler", "generate/batching", "generate/guidance", "generate/manifest")
    output: record("synthetic", "{generation}")
    params: settings("study", "guidance")
    threads: 2
    priority: 3
    resources: gpu=1
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON} generation={wildcards.generation}"


rule table2:
    input: f"{LOGEX}/table2.ipynb",
           [record("classifier", m, f"seed{s}") for m in rows(STUDY, POOL) for s in SEEDS],
           modules("detect/*", "report/*")
    output: f"{RESULTS}/logex_table2/record.json"
    params: seeds=",".join(map(str, SEEDS)), only=ROWS
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON} seeds={params.seeds} only={params.only}"


rule figure2:
    input: f"{LOGEX}/figure2.ipynb", record("data"), record("synthetic", generation(SEEDS[0])),
           record("classifier", "oracle", "seed0"), modules("report/figures")
    output: f"{RESULTS}/logex_figure2/record.json"
    params: generation=generation(SEEDS[0])
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON} generation={params.generation}"


rule scores:
    input: f"{LOGEX}/scores.ipynb", [record("classifier", "ce", f"seed{s}") for s in SEEDS],
           modules("detect/*", "report/*")
    output: f"{RESULTS}/logex_table{{table}}/record.json"
    wildcard_constraints: table="1|3"
    params: seeds=",".join(map(str, SEEDS))
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON} seeds={params.seeds} table={wildcards.table}"


rule scores_of:
    "Table 3 for the classifiers of another row, such as fifty shots"
    input: f"{LOGEX}/scores.ipynb", lambda w: [record("classifier", w.method, f"seed{s}") for s in SEEDS],
           modules("detect/*", "report/*")
    output: f"{RESULTS}/logex_table3_{{method}}/record.json"
    params: seeds=",".join(map(str, SEEDS))
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON} seeds={params.seeds} table=3 method={wildcards.method}"


rule figure4:
    input: f"{LOGEX}/figure4.ipynb", record("data"), modules("data/splits", "report/figures")
    output: f"{RESULTS}/logex_figure4/record.json"
    shell: "logex_run {input[0]} $(dirname {output}) {COMMON}"
