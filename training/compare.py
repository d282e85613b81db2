"""Compares networks or settings over seeds, paired: who is better, by how much, how surely.

    python training/compare.py --archs r18w16,r18w16_nam --seeds 0,1,2 --recipe fast

trains each arch with each seed and writes compare.md, .json, .csv and .png into results/compare.
An arch may carry settings of its own, a recipe's or the stem:

    --archs r18w16,r18w16_nam,r18w16_nam:gamma_penalty=1e-3:gate_gradient=false

Ctrl-C stops it and loses nothing: the same command goes on, and repeats no run that is finished.
After each run the tables are written anew; --no-train makes them of what is finished so far.

Each finished run's config.json, result.json and history.csv are kept in OUT/runs/RUN, small enough
for git. Where they are, the run is finished: on a fresh clone the same command trains what is
missing. Machines may take a part each, by --seeds. Merging their parts, git has no conflict in
OUT/runs; compare.* are made anew of all, by the whole command with --no-train.
"""

import argparse
import contextlib
import dataclasses
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from training import cli, recipes, train
from training.cli import FailedError, InputError, check_name

PASSED_ON = ("dataset", "data_dir", "validation_split", "steps_per_epoch", "precision")


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what is compared")
    what.add_argument(
        "--archs",
        required=True,
        metavar="ARCH[:KEY=VALUE…],…",
        help="see above; the parts of a tuple are joined by +, as in milestones=60+120",
    )
    what.add_argument("--seeds", default="0,1,2", metavar="N,…", help="default: %(default)s")
    what.add_argument("--baseline", metavar="ARCH…", help="an entry of --archs (default: first)")
    what.add_argument(
        "--recipe",
        default="paddle",
        help=f"{', '.join(recipes.RECIPES)} (default: %(default)s)",
    )

    where = parser.add_argument_group("the data and the files")
    where.add_argument("--dataset", default="cifar100", help="default: %(default)s")
    where.add_argument("--data-dir", help="as of train.py")
    where.add_argument(
        "--validation-split",
        type=float,
        default=0.0,
        help="share of the training images held out, 0–1: they are compared on then, and not the "
        "test set (default: %(default)s)",
    )
    where.add_argument(
        "--out", help="folder of the tables and of runs/, see above (default: results/compare)"
    )
    where.add_argument("--runs-dir", help="folder of the runs (default: runs/, and --out's name)")

    how = parser.add_argument_group("the machine and the runs")
    how.add_argument("--jobs", type=int, default=1, help="runs at a time (default: %(default)s)")
    how.add_argument("--precision", default="auto", help="as of train.py (default: %(default)s)")
    how.add_argument("--steps-per-epoch", type=int, help="steps (default: all the images)")
    how.add_argument(
        "--no-train", action="store_true", help="only the tables, of the finished runs"
    )

    settings = parser.add_argument_group("the recipe's settings, for every arch")
    for field in dataclasses.fields(recipes.Recipe):
        train.add_setting(settings, field)
    return parser


def main(argv=None):
    """Parses, trains what is missing, and reports."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    overrides = train.pop_settings(dict(vars(args)))
    if args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}: expected 1 or more.")
    if args.steps_per_epoch is not None and args.steps_per_epoch < 1:
        raise InputError(f"--steps-per-epoch {args.steps_per_epoch}: expected 1 or more.")

    from training.variants import read_seeds, read_variants

    variants = read_variants(args.archs, args.recipe, overrides)
    seeds = read_seeds(args.seeds)
    baseline = args.baseline or variants[0].name
    check_name("entry of --archs as --baseline", baseline, [v.name for v in variants])
    out = Path(args.out or "results/compare")
    runs_dir = Path(args.runs_dir or Path("runs") / out.name)
    with cli.needing("train"):
        from rich.console import Console

        from training import grid, grid_training

    _check(variants, args)
    console = Console(highlight=False)
    planned = grid.plan(variants, seeds, runs_dir, out)
    repeated = [argument for argument in arguments if argument != "--no-train"]
    command = shlex.join(["python", "training/compare.py", *repeated])

    def report(show=False):
        _report(planned, variants, baseline, args, command, out, console if show else None)

    asked = {key: getattr(args, key) for key in PASSED_ON if key != "data_dir"}
    grid.check_folders(planned, asked)
    failed = {} if args.no_train else _train(planned, args, runs_dir, console, report)
    report(show=True)
    for run, line in failed.items():
        print(f"{run.folder} failed: {line} (all of it: {grid_training.log_path(run)})")
    if failed:
        raise FailedError(f"{len(failed)} of {len(planned)} runs failed.")


def _check(variants, args):
    """Raises an InputError for what no training would take, before any is started."""
    import tensorflow as tf

    from training import data, devices
    from training.fit import Job, check

    with contextlib.suppress(RuntimeError):  # a TensorFlow that has begun keeps its devices
        tf.config.set_visible_devices([], "GPU")  # whose memory is the trainings'
    check_name("dataset", args.dataset, data.DATASETS)
    check_name("precision", args.precision, devices.PRECISIONS)
    for variant in variants:
        check(Job(variant.arch, variant.recipe_name, variant.recipe, stem=variant.stem))


def _train(planned, args, runs_dir, console, report):
    """Trains what is missing; returns the runs that failed."""
    from training import data, grid_training, runs

    missing = [run for run in planned if not run.finished]
    if missing:
        # Once, and not in each training: a set that is wrong, or still to be downloaded.
        loaded = data.load(args.dataset, args.data_dir, args.validation_split, missing[0].seed)
        for run in missing:
            data.steps_per_epoch(loaded.train, run.variant.recipe.batch_size)
        del loaded
    options = [
        f"--{key.replace('_', '-')}={getattr(args, key)}"
        for key in PASSED_ON
        if getattr(args, key) is not None
    ]
    runs_dir.mkdir(parents=True, exist_ok=True)
    busy = (
        f"Another comparison, or a training that it left behind, writes into {runs_dir}. Wait for "
        "its end, or give another --runs-dir."
    )
    with runs.lock(runs_dir / ".compare.lock", busy) as lock_file:
        try:
            return grid_training.train_missing(
                planned, options, args.jobs, lock_file, console, report
            )
        except KeyboardInterrupt:
            print("\nWhat is trained is kept: the same command goes on.")
            raise


def _report(planned, variants, baseline, args, command, out, console):
    """Writes the tables of the finished runs; prints them where there is a console."""
    from training import compare_report, comparison, runs
    from training.multiply_adds import multiply_adds

    finished = [run for run in planned if run.finished]
    runs_dir = planned[0].folder.parent
    if not finished:
        if args.no_train:
            raise InputError(f"No run is finished in {runs_dir} or {out}/runs; leave --no-train.")
        return
    rows = [comparison.figures(run, bool(args.validation_split)) for run in finished]
    costs = {v.name: multiply_adds(v.arch, v.stem, rows[0]["classes"]) for v in variants}
    part = "validation split, last epoch" if args.validation_split else "test set, last epoch"
    report = {
        "measure": f"top-1 on the {part}",
        "baseline": baseline,
        "recipe": args.recipe,
        "data": rows[0]["data"],
        "variants": comparison.compare(rows, [v.name for v in variants], baseline, costs),
        "runs": rows,
        "missing": [run.folder.name for run in planned if run not in finished],
        "settings": {v.name: v.configuration() for v in variants},
        "options": {key: getattr(args, key) for key in PASSED_ON},
        "command": command,
        "environment": runs.environment((*runs.PACKAGES, "scipy")),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    runs_dir.mkdir(parents=True, exist_ok=True)
    with runs.lock(runs_dir / ".report.lock"):
        for run in finished:
            run.keep()
        compare_report.write(report, out)
    if console:
        compare_report.show(report, console)
        print(f"written: {out}/compare.md, .json, .csv, .png")


if __name__ == "__main__":
    cli.run(main)
