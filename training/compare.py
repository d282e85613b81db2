"""Compares networks or settings over seeds, paired, and reports which differences are significant.

    python training/compare.py --archs r18w16,r18w16_nam --seeds 0,1,2 --recipe fast

trains each arch with each seed and writes compare.md, .json, .csv and .png into results/compare.
An entry of --archs can change the stem and settings of the recipe:

    --archs r18w16,r18w16_nam,r18w16_nam:gamma_penalty=1e-3:gate_gradient=false

After Ctrl-C the same command resumes and repeats no finished run. It rewrites the tables after each
run. With --no-train it only writes the tables of the finished runs.

OUT/runs/RUN keeps the config.json, result.json and history.csv of each finished run, small enough
for git. A kept run counts as finished: in another checkout the same command trains only the missing
runs. Several machines can share the work by --seeds: their files in OUT/runs do not conflict. Then
rebuild compare.* with the whole command and --no-train.
"""

import dataclasses
import shlex
import sys
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from training import cli, jobs, recipes
from training.cli import FailedError, InputError, check_name
from training.settings import add_options

OPTIONS = ("dataset", "data_dir", "validation_split", "steps_per_epoch", "precision")
MORE = ("image_size", "crop_fraction", "test_split", "skip_unreadable", "cache", "stem", "init")


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
    where = parser.add_argument_group("the files and the runs")
    where.add_argument(
        "--out", default="results/compare", help="folder of the tables (default: %(default)s)"
    )
    where.add_argument("--runs-dir", help="folder of the runs (default: runs/, and --out's name)")
    where.add_argument("--jobs", type=int, default=1, help="runs at a time (default: %(default)s)")
    where.add_argument(
        "--no-train", action="store_true", help="only write the tables of the finished runs"
    )
    add_options(parser, jobs.Job, names=("recipe_name", *OPTIONS, *MORE))
    add_options(parser, recipes.Recipe, defaults=False)
    return parser


def main(argv=None):
    """Parses, trains the missing runs, and reports."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    if args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}: expected 1 or more.")
    base = dataclasses.replace(jobs.read_job(dict(vars(args))), quiet=True)
    with cli.needing("train"):
        from training import console
        from training.comparing import grid, report
        from training.comparing.variants import read_seeds, read_variants
        from training.runs import files

    variants, seeds = read_variants(args.archs, base), read_seeds(args.seeds)
    args.baseline = args.baseline or next(iter(variants))
    check_name("entry of --archs as --baseline", args.baseline, variants)
    grid.check_jobs(variants.values())
    out = Path(args.out)
    runs_dir = Path(args.runs_dir or Path("runs") / out.name)
    planned = grid.plan(variants, seeds, runs_dir, out)
    grid.check_folders(planned)
    options = {key: getattr(args, key) for key in OPTIONS}
    options |= {key: getattr(args, key) for key in MORE if getattr(args, key)}
    repeated = [argument for argument in arguments if argument != "--no-train"]
    command = shlex.join(["python", "training/compare.py", *repeated])

    def write():
        """Writes the tables; returns the content of compare.json, or `None` without a run."""
        if not any(run.finished for run in planned):
            return None
        content = report.content(planned, variants, args.baseline, options, command)
        runs_dir.mkdir(parents=True, exist_ok=True)
        with files.lock(runs_dir / ".report.lock"):
            for run in planned:
                run.keep()
            report.write(content, out)
        return content

    failed = {} if args.no_train else grid.train_missing(planned, args.jobs, runs_dir, write)
    content = write()
    if content:
        report.show(content)
        console.say(f"written: {out}/compare.md, .json, .csv, .png")
    elif args.no_train:
        raise InputError(f"No run is finished in {runs_dir} or {out}/runs; omit --no-train.")
    for run, error in failed.items():
        console.say(f"{run.folder} failed: {error} (its output: {run.log})")
    if failed:
        raise FailedError(f"{len(failed)} of {len(planned)} runs failed.")


if __name__ == "__main__":
    cli.run(main)
