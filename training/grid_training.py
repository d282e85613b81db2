"""Trains what a comparison lacks: processes, their logs, the time that is left."""

import collections
import contextlib
import os
import signal
import statistics
import subprocess
import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from training import recipes, runs
from training.callbacks import duration
from training.grid import command

POLL = 0.5  # seconds
PATIENCE = 20  # seconds that an interrupted training has to end by itself


def train_missing(grid, options, jobs, lock_file, console, when_finished):
    """Trains the runs that are not finished, `jobs` at a time, each in a process of its own.

    Args:
        grid: List of `Run`.
        options: List of strings, those of the command line that all runs have.
        jobs: Integer.
        lock_file: Descriptor of the lock, which the trainings hold as well.
        console: A rich console.
        when_finished: Function, called after each run that has finished.

    Returns:
        A dictionary from each run that failed to the last line that it said.
    """
    waiting = collections.deque(run for run in grid if not run.finished)
    running, failed = {}, {}
    try:
        with _interruptible(), _progress(console) as progress:
            bar = progress.add_task("runs", total=len(grid), now="")
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.popleft()
                    running[run] = _start(run, options, jobs, lock_file)
                    console.print(f"started: {run.folder}", soft_wrap=True)
                _show(progress, bar, grid, running, failed, jobs)
                time.sleep(POLL)
                for run in [run for run, process in running.items() if process.poll() is not None]:
                    if running.pop(run).returncode == 0 and run.finished:
                        console.print(f"finished: {run.folder}", soft_wrap=True)
                        when_finished()
                    else:
                        failed[run] = last_words(log_path(run))
                        console.print(f"failed: {run.folder}: {failed[run]}", soft_wrap=True)
    finally:
        _stop(running.values())
    return failed


def log_path(run):
    """Returns where a run's output goes: beside its folder, which its training creates."""
    return run.folder.with_name(run.folder.name + ".log")


def last_words(log):
    """Returns the last line of a log that is an error, or else its last line."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["it said nothing"])[-1]


def seconds_left(grid, failed, jobs):
    """Returns the seconds that the grid still takes, by the epochs that this machine trained.

    `None` before any.
    """
    rows = {run: runs.read_history(run.folder / "history.csv") for run in grid}
    seconds, done = collections.Counter(), collections.Counter()  # of each variant
    for run in grid:
        seconds[run.variant] += sum(row["seconds"] for row in rows[run])
        done[run.variant] += _work(run, range(len(rows[run])))
    paces = {variant: seconds[variant] / done[variant] for variant in seconds if done[variant]}
    if not paces:
        return None
    unknown = statistics.fmean(paces.values())
    unfinished = [run for run in grid if not run.finished and run not in failed]
    total = sum(
        _work(run, range(len(rows[run]), run.variant.recipe.epochs))
        * paces.get(run.variant, unknown)
        for run in unfinished
    )
    return total / max(1, min(jobs, len(unfinished)))


def _work(run, epochs):
    return recipes.work(run.variant.recipe.image_size(epoch) for epoch in epochs)


def _start(run, options, jobs, lock_file):
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if jobs > 1:
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        environment.update(TF_NUM_INTRAOP_THREADS=threads, TF_NUM_INTEROP_THREADS=threads)
        environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    with open(log_path(run), "a") as log:
        return subprocess.Popen(
            command(run, options),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(lock_file,),
            # Ctrl-C reaches the trainings once, from here, not a second time from the terminal.
            start_new_session=True,
        )


@contextlib.contextmanager
def _interruptible():
    """Makes what ends this process alone (a scheduler, a closed terminal) end the trainings too."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    caught = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    try:
        for number in caught:
            signal.signal(number, signal.default_int_handler)
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def _stop(processes):
    """Interrupts the trainings, which keep their last whole epoch, and waits for their end."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
            process.wait()


def _progress(console):
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}"),
        console=console,
        transient=True,
    )


def _show(progress, bar, grid, running, failed, jobs):
    left = seconds_left(grid, failed, jobs)
    now = [f"about {duration(left)} left" if left is not None else "time left: not known yet"]
    for run in running:
        epochs = len(runs.read_history(run.folder / "history.csv"))
        now.append(f"{run.folder.name}: epoch {epochs + 1}/{run.variant.recipe.epochs}")
    done = sum(run.finished for run in grid)
    progress.update(bar, completed=done, now="; ".join(now))
