"""Trains with several processes: on this machine, or as one of those on many.

    python training/launch.py --processes 2 -- --arch r50_nam --batch-size 256

starts two processes of train.py here, each with its share of every batch, and passes on what they
say, the number of the process before each line. What stands after -- are train.py's options;
--strategy multihost and --quiet are added. On many machines each one runs

    python training/launch.py --processes 4 --coordinator HOST:PORT --process-id I -- …

with its own I from 0 to 3, HOST being the machine of process 0 (docs/scaling.md). The first process
that fails stops the others. SIGTERM and Ctrl-C are passed on: SIGTERM makes a checkpoint.
"""

import os
import socket
import sys
from functools import partial
from pathlib import Path

from training import cli, processes, train
from training.cli import InputError

TRAIN = Path(__file__).with_name("train.py")


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = cli.Parser(
        __doc__,
        usage="launch.py [-h] --processes N [--coordinator HOST:PORT [--process-id I]] [--pin]\n"
        "                 [--patience SECONDS] [-- TRAIN_OPTION ...]",
    )
    which = parser.add_argument_group("the processes")
    which.add_argument(
        "--processes", type=int, required=True, metavar="N", help="how many train together"
    )
    which.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="where process 0 listens to the others (default: a free port of this machine)",
    )
    which.add_argument(
        "--process-id",
        type=int,
        metavar="I",
        help="start this one alone, 0 to N-1 (default: all N here)",
    )
    how = parser.add_argument_group("the machine")
    how.add_argument(
        "--pin",
        action="store_true",
        help="each process keeps to its own share of the cores, so that timings compare (Linux)",
    )
    how.add_argument(
        "--patience",
        type=float,
        default=processes.PATIENCE,
        metavar="SECONDS",
        help="seconds that the processes have to end after a signal, before they are killed "
        "(default: %(default)s)",
    )
    return parser


def main(argv=None):
    """Parses, starts the processes and waits for them."""
    argv = sys.argv[1:] if argv is None else argv
    end = argv.index("--") if "--" in argv else len(argv)
    args = read(argv[:end])
    arguments = train_arguments(argv[end + 1 :])
    address = args.coordinator or f"127.0.0.1:{_free_port()}"
    numbers = range(args.processes) if args.process_id is None else [args.process_id]
    cores = shares(args.processes) if args.pin else [None] * args.processes
    outcome = processes.run_together(
        [
            partial(
                processes.Process,
                number,
                [sys.executable, str(TRAIN), *arguments],
                environment(address, args.processes, number),
                cores[number],
            )
            for number in numbers
        ],
        args.patience,
    )
    status, line = outcome.verdict()
    if line:
        print(line, file=sys.stderr)
    sys.exit(status)


def read(argv):
    """Returns the parsed options that stand before `--`.

    Raises:
        InputError: If they do not fit together.
    """
    args, unknown = parser().parse_known_args(argv)
    n, number = args.processes, args.process_id
    if unknown:
        raise InputError(
            f"Unknown option {unknown[0]!r}; the options of train.py stand after --: "
            f"launch.py --processes {n} -- {' '.join(unknown)}"
        )
    if n < 1:
        raise InputError(f"--processes {n}: expected 1 or more.")
    if args.coordinator is not None:
        check_address(args.coordinator)
    if number is not None and args.coordinator is None:
        raise InputError(
            f"--process-id {number} without --coordinator: give the HOST:PORT of process 0, the "
            "same to every process."
        )
    if number is not None and not 0 <= number < n:
        raise InputError(f"--process-id {number} of --processes {n}: expected 0 to {n - 1}.")
    if args.pin and number is not None:
        raise InputError("--pin shares out this machine's cores: it goes without --process-id.")
    if not 0 <= args.patience < float("inf"):
        raise InputError(f"--patience {args.patience}: expected a number of seconds.")
    return args


def check_address(address):
    """Raises an InputError unless an address is HOST:PORT, an IPv6 host in brackets."""
    host, _, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if (
        not host
        or "/" in host
        or (":" in host and not bracketed)
        or not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16)
    ):
        raise InputError(
            f"--coordinator {address}: expected HOST:PORT, such as node0:12345 or [::1]:12345."
        )


def train_arguments(arguments):
    """Returns what train.py is given: its arguments, of several processes, in lines.

    Raises:
        InputError: If they ask for another strategy.
    """
    parser = train.parser()
    parser.prog = "train.py"
    parser.set_defaults(strategy=None)
    args = parser.parse_args(arguments)
    if args.strategy not in (None, "auto", "multihost"):
        raise InputError(
            f"--strategy {args.strategy} is of one process: leave it out, or use train.py itself."
        )
    strategy = [] if args.strategy else ["--strategy", "multihost"]
    quiet = [] if args.quiet else ["--quiet"]
    return [*strategy, *quiet, *arguments]


def environment(address, count, number):
    """Returns the environment of a process, which `keras.distribution.initialize` reads."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
        "KERAS_DISTRIBUTION_NUM_PROCESSES": str(count),
        "KERAS_DISTRIBUTION_PROCESS_ID": str(number),
        "PYTHONUNBUFFERED": "1",
    }
    # JAX would take it for the one device that this process may use; it may use all.
    environment.pop("SLURM_LOCALID", None)
    return environment


def shares(count):
    """Returns the cores of each of `count` processes: as many for each, and none for two.

    Raises:
        InputError: If there are fewer cores, or the system cannot pin.
    """
    if not hasattr(os, "sched_getaffinity"):
        raise InputError("--pin: this system cannot bind a process to cores; leave it out.")
    cores = sorted(os.sched_getaffinity(0))
    each = len(cores) // count
    if not each:
        raise InputError(f"--pin: {count} processes and {len(cores)} cores; start fewer.")
    return [cores[i * each : (i + 1) * each] for i in range(count)]


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    cli.run(main)
