# Every target sets up what it needs. `make help` lists them.
PYTHON  ?= python3
PROFILE ?= smoke
DATASET ?= phantom
TARGET  ?=
SEEDS   ?= 0
ROWS    ?=
SET     ?=
CORES   ?= $(shell nproc 2>/dev/null || echo 2)
GPUS    ?=
EXECUTOR ?=
SHARES  ?= 1
TORCH   ?= auto

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export TQDM_MININTERVAL ?= 1
export HF_HUB_DISABLE_TELEMETRY := 1
export TRANSFORMERS_VERBOSITY ?= error

.DEFAULT_GOAL := help
.PHONY: help setup demo test reproduce plan rehearse lab docs readme prose export clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  settings:  PROFILE=smoke|mini|paper|paper_text|paper_code  DATASET=phantom|folder:PATH|npz:PATH|ARCHIVE  SEEDS=0,1,2"
	@echo "             ROWS=ce,logex or ROWS=all  CORES=n  GPUS=n  TORCH=auto|cpu|cuda  SET=\"lora.steps=100 lora.lr=1e-3\""
	@echo "             EXECUTOR=slurm: every stage a job of a cluster, as profiles/cluster/slurm/config.yaml says"
	@echo "             SHARES=n: each set of images is drawn by n jobs, on as many GPUs or nodes as there are"
	@echo "             ARCHIVE=kriegsmann|ham10000|isic2019|pad_ufes_20|scin|hyper_kvasir, or one of them with :PATH"
	@echo "             TARGET=one of these, or several separated by commas:"
	@for about in nbs/papers/*/study.toml; do paper=$$(basename $$(dirname $$about)); awk -v paper=$$paper '\
		/^\[targets\./ {name = paper "_" substr($$0, 10, length($$0) - 10)} \
		/^title = / {split($$0, part, "\""); printf "               %-22s %s\n", name ? name : paper, (name ? "" : "everything of ") part[2]}' $$about; done

setup: $(READY) ## virtual environment with pinned packages

$(READY): constraints.txt settings.ini setup.py install.sh
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" sh install.sh $(VENV)
	@touch $@

demo: $(READY) ## the first paper on the phantom, in a quarter to half an hour on two cores
	@logex_reproduce --demo --profile mini --dataset phantom --seeds 0,1,2,3,4 --cores $(CORES) --gpus "$(GPUS)"

test: $(READY) ## every check: the chain at smoke size, the notebooks, pytest
	@sh .ci/checks

reproduce: $(READY) ## PROFILE= DATASET= TARGET= SEEDS=: a table or figure and what it needs
	@logex_reproduce --profile "$(PROFILE)" --dataset "$(DATASET)" --target "$(TARGET)" --seeds "$(SEEDS)" --cores $(CORES) --gpus "$(GPUS)" --executor "$(EXECUTOR)" --shares "$(SHARES)" --rows "$(ROWS)" --set "$(SET)"

plan: $(READY) ## what `make reproduce` would run, with the same settings but SHARES
	@logex_reproduce --profile "$(PROFILE)" --dataset "$(DATASET)" --target "$(TARGET)" --seeds "$(SEEDS)" --cores $(CORES) --gpus "$(GPUS)" --executor "$(EXECUTOR)" --rows "$(ROWS)" --set "$(SET)" --plan

rehearse: $(READY) ## every stage of the published size, with narrow random networks
	@logex_rehearse --cores $(CORES)

lab: $(READY) ## JupyterLab on the notebooks
	@jupyter lab --notebook-dir=nbs $(if $(filter 0,$(shell id -u)),--allow-root)

docs: $(READY) ## the documentation, in _docs/
	@python docs/build.py

readme: $(READY) ## README.md from nbs/index.ipynb
	@python docs/build.py readme

prose: $(READY) ## the sentences of pages that read results/, refreshed
	@python tests/test_prose.py

export: $(READY) ## the package from the notebooks, notebooks cleaned
	@nbdev_export && nbdev_clean

clean: ## docs and caches; keeps the environment, runs and results
	rm -rf _docs _docsrc _proc .pytest_cache build *.egg-info
