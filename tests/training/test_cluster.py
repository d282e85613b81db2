"""The cluster files in docs/, run with stand-ins for the cluster's programs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from training import launch
from training.fitting import multihost

CLUSTER = Path(__file__).parents[2] / "docs" / "cluster"
GUIDE = CLUSTER / "README.md"
SLURM = CLUSTER / "slurm.sbatch"
KUBERNETES = CLUSTER / "kubernetes-job.yaml"
# Name -> shell script. The one for python appends its arguments to the file `calls`, as JSON.
SHOW = f"{sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' \"$@\" >> calls"
STAND_INS = {
    "python": f'{SHOW}; exit "${{STATUS:-0}}"',
    "scontrol": """
case "$1" in
    show) printf '%s\\n' node7 node8 ;;
    requeue) echo "$2" > requeued ;;
esac""",
    "srun": """
while [[ "$1" == -* ]]; do shift; done
for SLURM_PROCID in 0 1; do export SLURM_PROCID; "$@" || status=$?; done
exit "${status:-0}" """,
    "curl": "echo 3",
    "gcloud": """
case " $* " in
    *" describe "*) echo 10.0.0.2 ;;
    *" ssh "*) mkdir keras-nam; for last; do :; done; bash -c "${last#--command=}" ;;
esac""",
}
needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")


def run(script, folder, **environment):
    """Runs a bash script with the stand-ins; returns its status and the places in its calls."""
    for name, text in STAND_INS.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    environment |= {"PATH": f"{folder}:{os.environ['PATH']}"}
    status = subprocess.run(
        ["bash", "-c", script], cwd=folder, env={**os.environ, **environment}, timeout=60
    ).returncode
    (calls,) = folder.rglob("calls")
    return status, [place(json.loads(line)) for line in calls.read_text().splitlines()]


def place(command):
    """Returns the place in a command, after the launcher's and train.py's parser took it."""
    program, *arguments = command
    assert program == "training/launch.py"
    args = launch.read(arguments)
    assert "--resume" in args.options
    return args.processes, args.process_id, args.coordinator


@needs_bash
@pytest.mark.parametrize(("ends", "requeued"), [(0, False), (143, True), (1, False)])
def test_slurm_starts_each_process_and_queues_again_what_was_terminated(tmp_path, ends, requeued):
    slurm = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "17", "SLURM_NTASKS": "2"}
    status, places = run(SLURM.read_text(), tmp_path, **slurm, STATUS=str(ends))
    assert status == ends
    assert (tmp_path / "requeued").exists() == requeued
    assert places == [(2, 0, "node7:12345"), (2, 1, "node7:12345")]


@needs_bash
def test_the_tpu_lines(tmp_path):
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "gcloud" in block)
    assert run(block, tmp_path) == (0, [(4, 3, "10.0.0.2:12345")])


def test_kubernetes_starts_each_process():
    text = KUBERNETES.read_text()
    (count,) = set(re.findall(r"^  (?:completions|parallelism): (\d+)$", text, re.MULTILINE))
    (block,) = re.findall(r"^ +command:\n((?: +- .*\n)+)", text, re.MULTILINE)
    for index in range(int(count)):
        block_of_pod = block.replace("$(JOB_COMPLETION_INDEX)", str(index))
        lines = block_of_pod.splitlines()
        python, *call = [line.strip().removeprefix("- ").strip('"') for line in lines]
        assert python == "python"
        assert place(call) == (int(count), index, "nam-0.nam:12345")
    grace = int(re.search(r"terminationGracePeriodSeconds: (\d+)", text)[1])
    assert grace > launch.GRACE
    source = Path(multihost.__file__).read_text()
    for name in re.findall(r"KERAS_NAM_\w+", text):
        assert f'"{name}"' in source


def test_kubernetes_names_fit_together():
    yaml = pytest.importorskip("yaml", reason="no YAML reader")
    service, job = yaml.safe_load_all(KUBERNETES.read_text())
    name = job["metadata"]["name"]
    pod = job["spec"]["template"]["spec"]
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    (container,) = pod["containers"]
    assert f"--coordinator={name}-0.{pod['subdomain']}:12345" in container["command"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
