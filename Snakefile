# The rules of one paper: snakemake --config paper=logex profile=mini. `make plan` and `make reproduce` fill in the rest.
from logex_nb.run.study import papers

config.setdefault("paper", papers()[0])
include: f"nbs/papers/{config['paper']}/workflow.smk"
