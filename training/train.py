"""Trains a network on CIFAR and leaves a run folder with its SavedModel.

    python training/train.py --arch r50_nam

trains the reference recipe, ResNet50-NAM on CIFAR-100. Ctrl-C stops it; the same command with
--resume continues after the last checkpoint. SIGTERM makes one first, and ends with status 143.
"""

import argparse
import dataclasses
import os
import sys
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from training import cli, multihost, recipes
from training.cli import InputError, check_name


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what is trained")
    what.add_argument(
        "--arch",
        default="r50_nam",
        help="<backbone>[w<width>][_<attention>]: r18 r34 r50 r101 r152 mbv2; nam nam_spatial "
        "nam_full se cbam bam eca (default: %(default)s)",
    )
    what.add_argument("--stem", default="cifar", help="cifar or imagenet (default: %(default)s)")
    what.add_argument(
        "--recipe",
        default="paddle",
        help=f"{', '.join(recipes.RECIPES)} (default: %(default)s, the reference article's)",
    )
    what.add_argument("--seed", type=int, default=0, help="default: %(default)s")

    where = parser.add_argument_group("the data")
    where.add_argument(
        "--dataset",
        default="cifar100",
        help="cifar100, cifar10 or synthetic (default: %(default)s)",
    )
    where.add_argument(
        "--data-dir",
        help="folder of TFDS, or with cifar-100-python.tar.gz or its unpacked folder (default: "
        "TFDS_DATA_DIR, or else TFDS downloads it)",
    )
    where.add_argument(
        "--validation-split",
        type=float,
        default=0.0,
        help="share of the training images held out, 0–1 (default: %(default)s, and "
        "each epoch shows the test set)",
    )

    how = parser.add_argument_group("the machine and the run")
    how.add_argument(
        "--precision",
        default="auto",
        help="auto (mixed_float16 on a GPU that has it), float32, mixed_float16, mixed_bfloat16",
    )
    how.add_argument(
        "--strategy",
        default="auto",
        help="auto (mirrored over several GPUs, multihost in a launched process), none, mirrored, "
        "multihost (Keras on JAX, see training/launch.py)",
    )
    how.add_argument(
        "--sync-bn",
        action="store_true",
        help="mirrored: normalize by the whole batch, not each device by its own part; multihost "
        "always does",
    )
    how.add_argument(
        "--scale-lr",
        default="none",
        help="none (the batch is that of all devices), or linear: batch size and learning rate "
        "are multiplied by the devices (default: %(default)s)",
    )
    how.add_argument("--steps-per-epoch", type=int, help="steps (default: all the images)")
    how.add_argument("--run-dir", help="the run folder (default: runs/<arch>-<recipe>-s<seed>)")
    how.add_argument("--resume", action="store_true", help="continue the run folder's training")
    how.add_argument(
        "--checkpoint-every",
        type=int,
        metavar="N",
        help="steps between two checkpoints (default: one after each epoch, and on SIGTERM)",
    )
    how.add_argument(
        "--fold",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fold the SavedModel's normalizations into its convolutions (default: they are)",
    )
    how.add_argument("--quiet", action="store_true", help="a line an epoch, for logs")

    settings = parser.add_argument_group("the recipe's settings (defaults: the recipe's)")
    for field in dataclasses.fields(recipes.Recipe):
        add_setting(settings, field)
    return parser


def add_setting(group, field):
    """Adds the option of a recipe's field, of its type."""
    option = "--" + field.name.replace("_", "-")
    text = field.metadata["help"]
    default = field.default
    if isinstance(default, bool):
        group.add_argument(option, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif isinstance(default, tuple):
        kind = type(default[0])
        group.add_argument(option, type=kind, nargs="*", metavar=kind.__name__.upper(), help=text)
    else:
        group.add_argument(option, type=type(default), metavar=type(default).__name__, help=text)


def pop_settings(args):
    """Takes the recipe's settings out of a dictionary of parsed options, and returns them."""
    settings = {field.name: args.pop(field.name) for field in dataclasses.fields(recipes.Recipe)}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}


def main(argv=None):
    """Parses and trains."""
    args = vars(parser().parse_args(argv))
    overrides = pop_settings(args)
    recipe_name = args.pop("recipe")
    recipe = recipes.get(recipe_name, **overrides)
    for name in ("steps_per_epoch", "checkpoint_every"):
        if args[name] is not None and args[name] < 1:
            raise InputError(f"--{name.replace('_', '-')} {args[name]}: expected 1 or more.")

    check_name("backend", os.environ.get("KERAS_BACKEND", "tensorflow"), ("tensorflow", "jax"))
    if args["strategy"] == "multihost":
        multihost.choose_backend()

    with cli.needing("train"):
        from training.fit import Job, train

    job = Job(recipe_name=recipe_name, recipe=recipe, **args)
    try:
        train(job)
    except KeyboardInterrupt:
        print(f"\n{job.folder} keeps the last checkpoint: --resume continues there.")
        raise


if __name__ == "__main__":
    cli.run(main, multihost.exit_at_once)
