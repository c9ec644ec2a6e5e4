"An executor plugin starts the stages elsewhere: what it is asked for, and what a person sees"
import json
import os
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

BIN, ROOT = Path(sys.executable).parent, Path(__file__).parent.parent
MADE = Path("runs/results/smoke/phantom/logex_figure4/record.json")
TOY = '''
import subprocess
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(non_local_exec=True, implies_no_shared_fs=False, job_deploy_sources=False, pass_default_storage_provider_args=True,
                                 pass_default_resources_args=True, pass_envvar_declarations_to_cmd=False, auto_deploy_default_storage_provider=False)


class Executor(RemoteExecutor):
    def run_job(self, job):
        with open("jobs", "a") as f: print(job.name, job.threads, job.resources.mem_mb, job.resources.runtime, job.resources.get("gpu"), file=f)
        self.report_job_submission(SubmittedJobInfo(job, aux=dict(process=subprocess.Popen(self.format_job_exec(job), shell=True))))

    async def check_active_jobs(self, active_jobs):
        for info in active_jobs:
            code = info.aux["process"].poll()
            if code is None: yield info
            elif code: self.report_job_error(info)
            else: self.report_job_success(info)

    def cancel_jobs(self, active_jobs):
        for info in active_jobs: info.aux["process"].terminate()
'''


@pytest.mark.skipif(not (ROOT / MADE).exists(), reason="the chain at smoke size has not run here")
def test_stages_run_as_jobs_of_another_executor(checkout):
    "They ask for what they took before, and for the defaults where nobody knows"
    copy = checkout()
    (copy / "snakemake_executor_plugin_toy").mkdir()
    (copy / "snakemake_executor_plugin_toy/__init__.py").write_text(TOY)
    (copy / "profiles/cluster/toy").mkdir()
    (copy / "profiles/cluster/toy/config.yaml").write_text("jobs: 4\nseconds-between-status-checks: 1\ndefault-resources:\n  mem_mb: attempt * 16000\n  runtime: attempt * 720\n")
    (copy / MADE).parent.mkdir(parents=True)
    (copy / MADE).write_text(json.dumps(json.loads((ROOT / MADE).read_text()) | dict(seconds=1, peak_gib=1, device="CPU (toy)")))
    done = subprocess.run([BIN / "logex_reproduce", "--target", "logex_figure4", "--executor", "toy", "--gpus", "3"], capture_output=True, text=True, cwd=copy,
                          env=os.environ | dict(PYTHONPATH=str(copy)))
    assert not done.returncode, done.stdout + done.stderr
    assert " 1/2  data " in done.stdout and " 2/2  figure4 " in done.stdout and "all done in" in done.stdout
    assert (copy / "jobs").read_text().splitlines() == ["data 2 16000 720 None", "figure4 1 3500 11 None"]


@pytest.mark.parametrize("options, told", [
    (["--executor", "slrum"], "executor 'slrum' is not installed: choose from ['local'"),
    (["--gpus", "two"], "gpus are 'two': give a whole number"),
    (["--gpus", "3"], "gpus are 3, and 2 are there: give 2 or fewer")])
def test_what_is_not_there_is_told_in_one_line(options, told):
    done = subprocess.run([BIN / "logex_reproduce", *options], capture_output=True, text=True, env=os.environ | dict(CUDA_VISIBLE_DEVICES="4,2", PATH="/nowhere"))
    assert done.returncode and not done.stdout
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and told in line


def test_the_plain_install_knows_no_cluster():
    "What a cluster needs is an extra, and pinned"
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini")
    extra, pinned = ini["DEFAULT"]["cluster_requirements"].split(), (ROOT / "constraints.txt").read_text()
    assert extra and all(f"\n{name}==" in pinned for name in extra)
    assert not any(name in ini["DEFAULT"][f"{kind}requirements"] for name in extra for kind in ("", "dev_", "imagenet_")) and ".[dev,imagenet]" in (ROOT / "install.sh").read_text()
