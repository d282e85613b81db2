"""The options that the benchmarks share; no heavy import, so that --help is immediate."""

import os

from training.cli import InputError, Parser


def new_parser(description):
    """Returns a parser whose help begins with a module's docstring, as it is written."""
    return Parser(description)


def add_batch_size(group, default=64, by_default="%(default)s"):
    """Adds `--batch-size`."""
    group.add_argument(
        "--batch-size",
        type=int,
        default=default,
        metavar="N",
        help=f"images a batch (default: {by_default})",
    )


def add_how(parser, timed, rounds, least):
    """Adds how it is measured: `--rounds` and `--threads`; returns the group.

    Args:
        parser: The parser.
        timed: String, what is timed once a round.
        rounds: Integer, the default.
        least: Integer, the fewest rounds that `check` lets through.
    """
    group = parser.add_argument_group("how it is measured")
    group.add_argument(
        "--rounds",
        type=int,
        default=rounds,
        metavar="N",
        help=f"{timed}, at least {least} (default: %(default)s)",
    )
    group.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="of every contender (default: %(default)s, the cores of this machine)",
    )
    return group


def add_output(parser, files):
    """Adds `--output`, the folder of the files; returns the group."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output",
        metavar="DIR",
        default="benchmarks/results",
        help=f"folder of {files} (default: %(default)s)",
    )
    return group


def check(args, **least):
    """Raises an InputError for an option, named by its attribute, below its least value."""
    for option, value in least.items():
        if getattr(args, option) < value:
            name = option.replace("_", "-")
            raise InputError(f"--{name} {getattr(args, option)}: expected {value} or more")
