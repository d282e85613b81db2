"""Finishes a run: the test set's scores, the SavedModel and, last of all, result.json.

    python training/fitting/finishing.py RUN

does what train.py does at the end of each training. A training on JAX starts it as a process, since
the SavedModel needs TensorFlow.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[2]))

from training import cli
from training.cli import FailedError
from training.fitting import multihost
from training.recipes import Job
from training.runs import files


def finish(job, model, dataset, say):
    """Evaluates on the test set, writes the SavedModel and, last of all, `result.json`.

    Args:
        job: `Job` whose epochs are all done.
        model: Its trained `keras.Model`, on TensorFlow.
        dataset: A `Dataset`.
        say: Callable that receives progress messages.

    Returns:
        The result, the content of `result.json`.
    """
    from training.data import streams
    from training.fitting import network
    from training.runs import saved_model
    from training.runs.scores import evaluate

    started = time.perf_counter()
    folder, recipe = job.folder, job.recipe
    rows = files.read_history(folder / "history.csv")
    stream = streams.evaluation_stream(dataset.test, recipe.batch_size, recipe.mean, recipe.std)
    scores = evaluate(model, stream)
    saved_model.save(
        network.with_dtype(model, "float32"),
        folder / "saved_model",
        dataset.class_names,
        recipe.mean,
        recipe.std,
        fold=job.fold,
    )
    result = {
        "arch": job.arch,
        "split": f"test ({len(dataset.test)} images)",
        "weights": "best.keras",
        **{key: round(scores[key], 6) for key in ("loss", "top1", "top5")},
        "parameters": model.count_params(),
        "epochs": rows[-1]["epoch"],
        "minutes": round(sum(row["seconds"] for row in rows) / 60, 2),
        "data": dataset.source,
    }
    files.write_json(folder / "result.json", result)
    say(
        f"test top-1 {scores['top1']:.2%}, top-5 {scores['top5']:.2%}, loss {scores['loss']:.4f} "
        f"({time.perf_counter() - started:.0f} s to evaluate and save)"
    )
    return files.read_json(folder / "result.json")


def check(result, folder):
    """Raises a FailedError if a run's loss on the test set is not finite."""
    if result["loss"] is None:
        raise FailedError(
            f"{folder}: the loss on the test set is not finite (null in result.json), though the "
            "weights are. Train for more steps, since the statistics of the normalizations may "
            "not have settled, or with --precision float32, in another --run-dir."
        )


def in_tensorflow(job):
    """Finishes a run that was trained on another backend; returns its result.

    Raises:
        FailedError: If the process that does it fails; it has printed the reason.
    """
    folder = job.folder
    command = [sys.executable, __file__, str(folder), "--fold" if job.fold else "--no-fold"]
    command += ["--data-dir", job.data_dir] if job.data_dir else []
    environment = {key: value for key, value in os.environ.items() if key not in multihost.NAMES}
    ended = subprocess.run(command, env={**environment, "KERAS_BACKEND": "tensorflow"})
    if ended.returncode and not files.is_finished(folder):
        raise FailedError(
            f"{folder} is trained, but finishing failed (see above). Retry: python "
            f"training/fitting/finishing.py {folder}"
        )
    return files.read_json(folder / "result.json")


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = cli.Parser(__doc__)
    parser.add_argument("run", type=Path, help="a run folder whose epochs are all done")
    parser.add_argument("--data-dir", help="as for train.py")
    parser.add_argument("--fold", action=argparse.BooleanOptionalAction, default=True)
    return parser


def main(argv=None):
    """Parses and finishes."""
    args = parser().parse_args(argv)
    job = Job.from_config(files.read_json(args.run / files.CONFIG), args.run, fold=args.fold)
    rows = files.read_history(args.run / "history.csv")
    if not rows or rows[-1]["epoch"] != job.recipe.epochs:
        raise cli.InputError(
            f"{args.run} has not trained its {job.recipe.epochs} epochs. Resume it with train.py "
            "--resume."
        )

    from training.data import streams
    from training.runs import report

    dataset = streams.load(job.dataset, args.data_dir, job.validation_split, job.seed)
    model = report.load_model(args.run / "best.keras")
    check(finish(job, model, dataset, lambda line: print(line, flush=True)), args.run)


if __name__ == "__main__":
    cli.run(main)
