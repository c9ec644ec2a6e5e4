# The rules of one paper: snakemake --config paper=logex profile=mini. `make plan` and `make reproduce` fill in the rest.
from logex_nb.run.study import papers
from logex_nb.run.terminal import report_plan

config.setdefault("paper", papers()[0])
include: f"nbs/papers/{config['paper']}/workflow.smk"


onstart: report_plan(output for job in workflow.dag.needrun_jobs() for output in job.output)
