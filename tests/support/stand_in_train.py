"""Stands in for train.py in the tests of comparisons: leaves a run's files without training.

Environment: FAIL names a run that fails, HANG a run that waits after an epoch until it is
interrupted. Each call's arguments are a line of the file `calls` beside the runs.
"""

import json
import os
import sys
import time

from training import jobs, recipes, train
from training.runs import files

GAINS = {"r18w4": 0.0, "r18w4_nam": 0.01, "r18w4_se": -0.02}


def calls(folder):
    """Returns the arguments of each training that was started, its threads first."""
    path = folder / "runs" / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def started(folder):
    """Returns the names of the runs that were started."""
    arguments = [str(argument) for call in calls(folder) for argument in call]
    return [a.rpartition("/")[2] for a in arguments if a.startswith("--run-dir=")]


def main(arguments):
    job = jobs.read_job(vars(train.parser().parse_args(arguments)))
    with open(job.folder.parent / "calls", "a") as calls:
        calls.write(json.dumps([os.environ.get("TF_NUM_INTRAOP_THREADS"), *arguments]) + "\n")
    if job.folder.name == os.environ.get("FAIL"):
        print("a line before\nerror: The loss became nan at step 3.\nINFO: a line after")
        sys.exit(1)
    write_run(job)


def write_run(job):
    config = {
        **job.as_config(),
        "stem": job.stem or "cifar",
        "image_size": [job.image_size[0], job.image_size[-1]] if job.image_size else [32, 32],
        "init": job.init and {"source": job.init},
        "class_names": None,
        "classes": 10,
        "training_images": round(2000 * (1 - job.validation_split)),
        "steps_per_epoch": min(job.steps_per_epoch or 999, 2000 // job.recipe.batch_size),
        "precision": "float32" if job.precision == "auto" else job.precision,
        "environment": {
            "normalization": job.recipe.normalization,
            "versions": dict.fromkeys(("tensorflow", "keras", "python"), "1.0"),
            "machine": "a machine",
            "git_revision": None,
        },
    }
    if job.recipe.normalization != "numbers":
        config["recipe_settings"]["mean"] = [*recipes.IMAGENET_MEAN]
        config["recipe_settings"]["std"] = [*recipes.IMAGENET_STD]
    job.folder.mkdir(exist_ok=True)
    files.write_json(job.folder / "config.json", config)
    top1 = round(0.5 + GAINS[job.arch] + 0.003 * (job.seed + 1) * (job.arch == "r18w4_nam"), 6)
    row = dict.fromkeys(files.HISTORY_COLUMNS, 0.25) | {"images_per_second": 1000.0}
    rows = [row | {"epoch": epoch + 1} for epoch in range(job.recipe.epochs)]
    if job.folder.name == os.environ.get("HANG") and not job.resume:
        files.write_history(job.folder / "history.csv", rows[:1])
        time.sleep(60)
    rows[-1]["val_top1"] = top1 - 0.1
    files.write_history(job.folder / "history.csv", rows)
    result = {"top1": top1, "top5": 0.9, "loss": 2.0, "parameters": 12345, "data": "a set"}
    files.write_json(
        job.folder / "result.json", result | {"epochs": job.recipe.epochs, "minutes": 1.5}
    )


if __name__ == "__main__":
    main(sys.argv[1:])
