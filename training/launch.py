"""Trains with several processes that share each batch, on one machine or on several.

    python training/launch.py --processes 2 -- --arch r50_nam --batch-size 256

starts two processes of train.py here, with the options after --. On a cluster, run it for each
process I from 0 to N - 1 (docs/cluster/README.md):

    python training/launch.py --processes N --coordinator HOST:PORT --process-id I -- …

Each line of output starts with the number of its process. If one fails, the others are stopped.
SIGTERM and Ctrl-C are passed on; after SIGTERM the processes write a checkpoint and end.
"""

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from queue import SimpleQueue
from subprocess import PIPE, STDOUT, Popen
from threading import Thread

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from training import cli, train
from training.cli import InputError
from training.fitting import multihost

TRAIN = Path(__file__).with_name("train.py")
GRACE, GRACE_AFTER_FAILURE = 60, 20  # seconds until SIGKILL; a checkpoint takes some of them


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--processes", type=int, required=True, metavar="N", help="number of processes")
    add("--coordinator", metavar="HOST:PORT", help="address of process 0 (default: a free port)")
    add("--process-id", type=int, metavar="I", help="start only process I (default: all, here)")
    add("--pin", action="store_true", help="give each process its own CPU cores (Linux)")
    add("options", nargs="*", metavar="-- TRAIN_OPTION", help="options of train.py")
    return parser


def read(argv=None):
    """Returns the parsed options; InputError if they do not fit together."""
    args, unknown = parser().parse_known_args(argv)
    if unknown:
        raise InputError(f"{unknown[0]}: expected train.py's options after --, as in -- --arch r18")
    if args.process_id is not None and (args.coordinator is None or args.pin):
        raise InputError("--process-id: expected with --coordinator, and without --pin.")
    args.coordinator = args.coordinator or free_address()
    multihost.check_place(args.coordinator, args.processes, args.process_id or 0)
    args.cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    if args.pin and args.processes > len(args.cores):
        raise InputError(f"--processes {args.processes} --pin: expected Linux, a core for each.")
    strategy = train.parser().parse_args(args.options).strategy
    if strategy not in ("auto", "multihost"):
        raise InputError(f"--strategy {strategy}: expected multihost. Leave the option out.")
    return args


def main(argv=None):
    """Parses, starts the processes and waits for them."""
    args = read(argv)
    each = len(args.cores) // args.processes
    events = SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, lambda number, _: events.put(number))
    processes = []
    for number in range(args.processes) if args.process_id is None else [args.process_id]:
        if args.pin:  # a new process inherits it
            os.sched_setaffinity(0, args.cores[number * each : (number + 1) * each])
        place = environment(args.coordinator, args.processes, number)
        processes.append(Process(number, args.options, place))
    status, reason = supervise(processes, events)
    if status:
        print(reason, file=sys.stderr)
    sys.exit(status)


def free_address():
    """Returns an address of this machine at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def environment(coordinator, processes, number):
    """Returns the environment variables of one of several processes."""
    variables = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONUNBUFFERED": "1"}
    place = (coordinator, str(processes), str(number))
    variables.update(zip(multihost.NAMES, place, strict=True))
    variables.pop("SLURM_LOCALID", None)  # JAX would use only the device of that number
    return variables


class Process(Popen):
    """A process of train.py; prints each line of its output after its number."""

    def __init__(self, number, options, environment):
        self.number, self.last_line = number, "no output"
        command = [sys.executable, str(TRAIN), *options, "--strategy", "multihost", "--quiet"]
        # In a separate session, a terminal's Ctrl-C reaches it only through this process.
        super().__init__(
            command, env=environment, stdout=PIPE, stderr=STDOUT, start_new_session=True
        )

    def watch(self, events):
        """Passes on the output; puts the process into the queue `events` when it has ended."""
        reader = Thread(target=self._pass_on, args=(events,), daemon=True)
        reader.start()
        self.wait()
        self.kill_all()
        reader.join(timeout=5)
        events.put(self)

    def _pass_on(self, events):
        for line in self.stdout:
            line = line.rstrip().rpartition(b"\r")[2]  # the last state of a progress bar
            if line and not self.last_line.startswith("error:"):
                self.last_line = line.decode(errors="replace")
            try:
                os.write(1, b"[%d] %s\n" % (self.number, line))
            except OSError as error:  # read on, or the process would block at a full pipe
                events.put(error)

    def kill_all(self):
        """Kills the process and its children, which may hold its output open."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def __str__(self):
        code = self.returncode
        how = f"failed with status {code}" if code > 0 else f"died of {signal.Signals(-code).name}"
        return f"process {self.number} {how}: {self.last_line.removeprefix('error:').strip()}"


def supervise(processes, events):
    """Waits for the end of all; returns the exit status, and the reason if it is not 0."""
    for process in processes:
        Thread(target=process.watch, args=(events,), daemon=True).start()
    running, cause = set(processes), None
    while running:
        event = events.get()
        running.discard(event)
        if event == signal.SIGALRM or (cause and event == signal.SIGINT):
            for process in running:
                process.kill_all()
        elif not (cause or (isinstance(event, Process) and event.returncode == 0)):
            cause = event
            for process in running:
                process.send_signal(signal.SIGINT if event == signal.SIGINT else signal.SIGTERM)
            signal.alarm(GRACE if isinstance(event, int) else GRACE_AFTER_FAILURE)
    if cause is None:
        return 0, None
    if isinstance(cause, OSError):
        return 1, f"error: the output cannot be written: {cause.strerror}"
    if isinstance(cause, Process):
        return max(cause.returncode, 1), f"error: {cause}"
    status, word = (130, "interrupted") if cause == signal.SIGINT else (143, "terminated")
    failed = [str(p) for p in processes if p.returncode not in (0, status, 128 - status)]
    return status, "; ".join([word, *failed])


if __name__ == "__main__":
    cli.run(main)
