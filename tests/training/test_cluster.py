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


def run(script, folder, **environment):
    """Runs a bash script with the stand-ins; returns its status and the calls of python."""
    for name, text in STAND_INS.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    environment |= {"PATH": f"{folder}:{os.environ['PATH']}"}
    status = subprocess.run(
        ["bash", "-c", script], cwd=folder, env={**os.environ, **environment}, timeout=60
    ).returncode
    (calls,) = folder.rglob("calls")
    return status, [json.loads(line) for line in calls.read_text().splitlines()]


def parsed(command):
    """Returns the launcher's options of a command, after its and train.py's parser took it."""
    program, *arguments = command
    assert program == "training/launch.py"
    args = launch.read(arguments)
    assert "--resume" in args.options
    return args


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(("ends", "requeued"), [(0, False), (143, True), (1, False)])
def test_slurm_starts_each_process_and_queues_again_what_was_terminated(tmp_path, ends, requeued):
    status, calls = run(
        SLURM.read_text(),
        tmp_path,
        SLURM_JOB_NODELIST="node[7-8]",
        SLURM_JOB_ID="17",
        SLURM_NTASKS="2",
        STATUS=str(ends),
    )
    assert status == ends
    assert (tmp_path / "requeued").exists() == requeued
    assert len(calls) == 2
    for number, call in enumerate(calls):
        args = parsed(call)
        assert (args.processes, args.process_id, args.coordinator) == (2, number, "node7:12345")


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_the_tpu_lines(tmp_path):
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "gcloud" in block)
    status, (call,) = run(block, tmp_path)
    args = parsed(call)
    assert status == 0
    assert (args.processes, args.process_id, args.coordinator) == (4, 3, "10.0.0.2:12345")


def kubernetes_command(index):
    """Returns the container's command as the pod with a completion index runs it."""
    (block,) = re.findall(r"^ +command:\n((?: +- .*\n)+)", KUBERNETES.read_text(), re.MULTILINE)
    words = [line.strip().removeprefix("- ").strip('"') for line in block.splitlines()]
    return [word.replace("$(JOB_COMPLETION_INDEX)", str(index)) for word in words]


def test_kubernetes_starts_each_process():
    text = KUBERNETES.read_text()
    (count,) = set(re.findall(r"^  (?:completions|parallelism): (\d+)$", text, re.MULTILINE))
    for index in range(int(count)):
        python, *call = kubernetes_command(index)
        args = parsed(call)
        assert python == "python"
        assert (args.processes, args.process_id) == (int(count), index)
        assert args.coordinator == "nam-0.nam:12345"
    grace = int(re.search(r"terminationGracePeriodSeconds: (\d+)", text)[1])
    assert grace > launch.GRACE


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
    assert container["command"] == kubernetes_command("$(JOB_COMPLETION_INDEX)")
    assert f"--coordinator={name}-0.{pod['subdomain']}:12345" in container["command"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_join_timeout_is_the_one_that_is_read():
    source = Path(multihost.__file__).read_text()
    for name in re.findall(r"KERAS_NAM_\w+", KUBERNETES.read_text()):
        assert f'"{name}"' in source


@pytest.mark.parametrize("path", [SLURM, KUBERNETES], ids=lambda path: path.name)
def test_the_guide_links_every_file(path):
    assert f"({path.name})" in GUIDE.read_text()
