"""Compares networks or settings over seeds, paired, and tells which differences are significant.

    python training/compare.py --archs r18w16,r18w16_nam --seeds 0,1,2 --recipe fast

trains each arch with each seed and writes compare.md, .json, .csv and .png into results/compare.
An arch may have its own settings, a recipe's or the stem:

    --archs r18w16,r18w16_nam,r18w16_nam:gamma_penalty=1e-3:gate_gradient=false

After Ctrl-C the same command resumes; it repeats no finished run. The tables are rewritten after
each run. With --no-train they are made from the runs that are finished so far.

Each finished run's config.json, result.json and history.csv are kept in OUT/runs/RUN, small enough
for git. A kept run counts as finished: on a fresh clone the same command trains only the missing
runs. Several machines can share the work by --seeds. Merging their parts causes no git conflict in
OUT/runs; rebuild compare.* with the whole command and --no-train.
"""

import contextlib
import dataclasses
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from training import cli, recipes
from training.cli import FailedError, InputError, check_name
from training.settings import add_options, as_json

OPTIONS = ("dataset", "data_dir", "validation_split", "steps_per_epoch", "precision")


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = cli.Parser(__doc__)
    what = parser.add_argument_group("what is compared")
    what.add_argument(
        "--archs",
        required=True,
        metavar="ARCH[:KEY=VALUE…],…",
        help="see above; the parts of a tuple are joined by +, as in milestones=60+120",
    )
    what.add_argument("--seeds", default="0,1,2", metavar="N,…", help="default: %(default)s")
    what.add_argument("--baseline", metavar="ARCH…", help="an entry of --archs (default: first)")
    files = parser.add_argument_group("the files and the runs")
    files.add_argument(
        "--out", help="folder of the tables and of runs/, see above (default: results/compare)"
    )
    files.add_argument("--runs-dir", help="folder of the runs (default: runs/, and --out's name)")
    files.add_argument("--jobs", type=int, default=1, help="runs at a time (default: %(default)s)")
    files.add_argument(
        "--no-train", action="store_true", help="only write the tables of the finished runs"
    )
    add_options(parser, recipes.Job, names=("recipe_name", *OPTIONS))
    add_options(parser, recipes.Recipe, defaults=False)
    return parser


def main(argv=None):
    """Parses, trains what is missing, and reports."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    if args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}: expected 1 or more.")
    base = dataclasses.replace(recipes.read_job(dict(vars(args))), quiet=True)
    with cli.needing("train"):
        from training import console
        from training.comparing import grid
        from training.comparing.variants import read_seeds, read_variants

    variants, seeds = read_variants(args.archs, base), read_seeds(args.seeds)
    args.baseline = args.baseline or next(iter(variants))
    check_name("entry of --archs as --baseline", args.baseline, variants)
    _check(variants.values())
    out = Path(args.out or "results/compare")
    runs_dir = Path(args.runs_dir or Path("runs") / out.name)
    planned = grid.plan(variants, seeds, runs_dir, out)
    grid.check_folders(planned)
    repeated = [argument for argument in arguments if argument != "--no-train"]
    command = shlex.join(["python", "training/compare.py", *repeated])

    def report(show=False):
        _report(planned, variants, args, command, out, show)

    failed = {} if args.no_train else _train(planned, args.jobs, runs_dir, report)
    report(show=True)
    for run, line in failed.items():
        console.say(f"{run.folder} failed: {line} (its output: {run.log})")
    if failed:
        raise FailedError(f"{len(failed)} of {len(planned)} runs failed.")


def _check(jobs):
    """Raises an InputError for what no training would accept, before any is started."""
    import tensorflow as tf

    from training.fitting.job import check

    with contextlib.suppress(RuntimeError):  # a TensorFlow that is initialized keeps its devices
        tf.config.set_visible_devices([], "GPU")  # whose memory is the trainings'
    for job in jobs:
        check(job)


def _train(planned, jobs, runs_dir, report):
    """Trains what is missing; returns the runs that failed."""
    from training.comparing import grid
    from training.data import streams
    from training.runs import files as runs

    missing = [run.job for run in planned if not run.finished]
    if missing:
        # Once, and not in each training: a set that is wrong, or still to be downloaded.
        first = missing[0]
        loaded = streams.load(first.dataset, first.data_dir, first.validation_split, first.seed)
        for job in missing:
            streams.steps_per_epoch(loaded.train, job.recipe.batch_size)
        del loaded
    runs_dir.mkdir(parents=True, exist_ok=True)
    busy = (
        f"Another comparison, or a training that it left behind, writes into {runs_dir}. Wait for "
        "its end, or give another --runs-dir."
    )
    with runs.lock(runs_dir / ".compare.lock", busy) as lock_file:
        try:
            return grid.train_missing(planned, jobs, lock_file, report)
        except KeyboardInterrupt:
            print("\nFinished runs and checkpoints are kept. The same command resumes.")
            raise


def _settings(job):
    """Returns the settings that variants may differ in."""
    named = {"arch": job.arch, "recipe": job.recipe_name, "stem": job.stem}
    return {**named, **as_json(job.recipe)}


def _report(planned, variants, args, command, out, show):
    """Writes the tables of the finished runs, and prints them if `show`."""
    from training import console
    from training.comparing import report as compare_report
    from training.comparing import statistics
    from training.fitting.multiply_adds import multiply_adds
    from training.runs import files as runs

    finished = [run for run in planned if run.finished]
    runs_dir = planned[0].folder.parent
    if not finished:
        if args.no_train:
            raise InputError(f"No run is finished in {runs_dir} or {out}/runs; omit --no-train.")
        return
    rows = [statistics.figures(run) for run in finished]
    costs = {
        name: multiply_adds(job.arch, job.stem, rows[0]["classes"])
        for name, job in variants.items()
    }
    part = "validation split, last epoch" if args.validation_split else "test set, last epoch"
    report = {
        "measure": f"top-1 on the {part}",
        "baseline": args.baseline,
        "recipe": args.recipe_name,
        "data": rows[0]["data"],
        "variants": statistics.compare(rows, args.baseline, costs),
        "runs": rows,
        "missing": [run.folder.name for run in planned if run not in finished],
        "settings": {name: _settings(job) for name, job in variants.items()},
        "options": {key: getattr(args, key) for key in OPTIONS},
        "command": command,
        "environment": runs.environment((*runs.PACKAGES, "scipy")),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    runs_dir.mkdir(parents=True, exist_ok=True)
    with runs.lock(runs_dir / ".report.lock"):
        for run in finished:
            run.keep()
        compare_report.write(report, out)
    if show:
        compare_report.show(report)
        console.say(f"written: {out}/compare.md, .json, .csv, .png")


if __name__ == "__main__":
    cli.run(main)
