"""Stands in for train.py in the tests of comparisons: leaves a run's files without training.

Environment: FAIL is the name of a run that fails, HANG that of one that stops after an epoch until
it is interrupted. Each call's arguments are a line of the file `calls` beside the runs.
"""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

from training import recipes, runs, train

GAINS = {"r18w4": 0.0, "r18w4_nam": 0.01, "r18w4_se": -0.02}


def calls(folder):
    """Returns the arguments of each training that was started, its threads first."""
    path = folder / "runs" / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main(arguments):
    args = train.parser().parse_args(arguments)
    folder = Path(args.run_dir)
    with open(folder.parent / "calls", "a") as calls:
        calls.write(json.dumps([os.environ.get("TF_NUM_INTRAOP_THREADS"), *arguments]) + "\n")
    if folder.name == os.environ.get("FAIL"):
        print("a line before\nerror: The loss became nan at step 3.\nINFO: a line after")
        sys.exit(1)
    changed = {f.name: getattr(args, f.name) for f in dataclasses.fields(recipes.Recipe)}
    changed = {k: tuple(v) if isinstance(v, list) else v for k, v in changed.items()}
    write_run(folder, args, recipes.get(args.recipe, **changed))


def write_run(folder, args, recipe):
    config = {
        **{key: getattr(args, key) for key in ("arch", "recipe", "stem", "seed", "dataset")},
        "recipe_settings": dataclasses.asdict(recipe),
        "classes": 10,
        "training_images": round(2000 * (1 - args.validation_split)),
        "validation_split": args.validation_split,
        "steps_per_epoch": min(args.steps_per_epoch or 999, 2000 // recipe.batch_size),
        "precision": "float32",
        "environment": {"versions": {}, "machine": "a machine", "git_revision": None},
    }
    folder.mkdir(exist_ok=True)
    runs.write_json(folder / "config.json", config)
    top1 = round(0.5 + GAINS[args.arch] + 0.003 * (args.seed + 1) * (args.arch == "r18w4_nam"), 6)
    row = dict.fromkeys(runs.HISTORY_COLUMNS, 0.25) | {"images_per_second": 1000.0}
    rows = [row | {"epoch": epoch + 1} for epoch in range(recipe.epochs)]
    if folder.name == os.environ.get("HANG") and not args.resume:
        runs.write_history(folder / "history.csv", rows[:1])
        time.sleep(60)
    rows[-1]["val_top1"] = top1 - 0.1
    runs.write_history(folder / "history.csv", rows)
    result = {"top1": top1, "top5": 0.9, "loss": 2.0, "parameters": 12345, "data": "a set"}
    runs.write_json(folder / "result.json", result | {"epochs": recipe.epochs, "minutes": 1.5})


if __name__ == "__main__":
    main(sys.argv[1:])
