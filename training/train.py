"""Trains a network on CIFAR or your own pictures, and leaves a run folder with its SavedModel.

    python training/train.py --arch r50_nam

trains the reference recipe, ResNet50-NAM on CIFAR-100. Ctrl-C and SIGTERM stop it after a
checkpoint; the same command with --resume continues there. A second Ctrl-C stops it at once.

    python training/train.py --dataset FOLDER --arch r18_nam --recipe finetune --init WEIGHTS

trains on a folder of pictures, from given weights (docs/own-pictures.md).
"""

import os
import sys
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from training import cli, jobs, recipes
from training.cli import check_name
from training.fitting import multihost
from training.settings import add_options

BACKENDS = ("tensorflow", "jax")


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = cli.Parser(__doc__)
    add_options(parser, jobs.Job)
    add_options(parser, recipes.Recipe, defaults=False)
    return parser


def main(argv=None):
    """Parses and trains."""
    job = jobs.read_job(vars(parser().parse_args(argv)))
    check_name("backend", os.environ.get("KERAS_BACKEND", "tensorflow"), BACKENDS)
    if job.strategy == "multihost":
        multihost.choose_backend()

    with cli.needing("train"):
        import keras

        from training.fitting.job import train

    check_name("backend", keras.backend.backend(), BACKENDS)  # of ~/.keras/keras.json, too
    try:
        train(job)
    except KeyboardInterrupt as ended:
        kept = f"{job.folder} keeps the last checkpoint: --resume continues there."
        print(str(ended) or kept)
        raise


if __name__ == "__main__":
    cli.run(main, multihost.exit_at_once)
