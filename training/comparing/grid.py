"""The runs of a comparison, every variant with every seed: their folders and their trainings."""

import collections
import contextlib
import dataclasses
import functools
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from training import console, recipes
from training.cli import InputError
from training.comparing.variants import folder_name
from training.fitting.callbacks import duration
from training.runs import files

TRAIN = Path(__file__).parents[1] / "train.py"
KEPT = ("config.json", "history.csv", "result.json")  # the last makes a run finished
POLL = 0.5  # seconds
PATIENCE = 20  # seconds that an interrupted training has to end by itself


@dataclasses.dataclass(frozen=True)
class Run:
    """A variant with a seed: its job, and the folder that keeps its small files."""

    variant: str
    job: recipes.Job
    kept: Path

    @property
    def folder(self):
        """The run folder."""
        return self.job.folder

    @property
    def record(self):
        """The folder of its settings and figures: the kept one if the run folder has no result."""
        elsewhere = files.is_finished(self.kept) and not files.is_finished(self.folder)
        return self.kept if elsewhere else self.folder

    @property
    def finished(self):
        """Whether it has its result, in the run folder or kept."""
        return files.is_finished(self.record)

    @property
    def log(self):
        """The file of its training's output, beside the folder, which the training creates."""
        return self.folder.with_name(self.folder.name + ".log")

    @property
    def history(self):
        """The rows of the epochs that are done in the run folder."""
        return files.read_history(self.folder / "history.csv")

    def keep(self):
        """Copies the small files of a run that finished here."""
        if self.record == self.kept:
            return
        self.kept.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            copy = functools.partial(shutil.copyfile, self.folder / name)
            files.write_atomically(self.kept / name, copy)

    def work(self, epochs):
        """Returns the work of some epochs, in pixels of a training image."""
        return recipes.work(self.job.recipe.image_size(epoch) for epoch in epochs)


def plan(variants, seeds, runs_dir, out):
    """Returns the runs seed by seed, so that each finished seed is a whole comparison."""
    planned = []
    for seed in seeds:
        for name, job in variants.items():
            folder = f"{folder_name(name)}-s{seed}"
            job = dataclasses.replace(job, seed=seed, run_dir=str(Path(runs_dir) / folder))
            planned.append(Run(name, job, Path(out) / "runs" / folder))
    return planned


def check_folders(planned):
    """Raises an InputError for the first run, begun or kept, whose settings are not its job's."""
    first = None
    folders = [(run, folder) for run in planned for folder in (run.folder, run.kept)]
    for run, folder in folders:
        if not (folder / "config.json").is_file() and not files.is_finished(folder):
            continue
        config = files.read_json(folder / "config.json")
        job = recipes.Job.from_config(config, folder)
        found = files.flat({**config, **job.as_config()})
        first = first or found
        try:
            expected = _expected(run.job, found, first)
        except KeyError:
            raise InputError(f"{folder}/config.json is not a training's.") from None
        for key, value in expected.items():
            if found.get(key) != value:
                raise InputError(
                    f"{folder} was started with other settings: {key}: {found.get(key)} there, "
                    f"{value} here. Give those settings, or another --out and --runs-dir."
                )


def _expected(job, found, first):
    """Returns what a run's flat `config.json` must hold, `first` being that of the first run."""
    whole = found["training_images"] // found["batch_size"]
    alike = {key: first[key] for key in ("training_images", "classes", "precision")}
    if job.precision != "auto":
        alike["precision"] = job.precision
    settings = files.flat(job.as_config())
    del settings["steps_per_epoch"]
    return {
        **settings,
        **alike,
        # Last, since it depends on the number of images.
        "steps_per_epoch": min(job.steps_per_epoch or whole, whole),
    }


def train_missing(planned, jobs, lock_file, when_finished):
    """Trains the runs that are not finished, `jobs` at a time, each in its own process.

    Args:
        planned: List of `Run`.
        jobs: Integer.
        lock_file: Descriptor of the lock, which the trainings inherit.
        when_finished: Function, called after each run that has finished.

    Returns:
        A dictionary from each run that failed to its error message.
    """
    waiting = collections.deque(run for run in planned if not run.finished)
    running, failed = {}, {}
    try:
        bar = console.progress("runs", len(planned), estimate=False)
        with _interruptible(), bar as advance:
            advance(len(planned) - len(waiting))
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.popleft()
                    running[run] = _start(run, jobs, lock_file)
                    console.say(f"started: {run.folder}")
                advance(0, _status(planned, running, failed, jobs))
                time.sleep(POLL)
                for run in [run for run, process in running.items() if process.poll() is not None]:
                    if running.pop(run).returncode == 0 and run.finished:
                        console.say(f"finished: {run.folder}")
                        advance()
                        when_finished()
                    else:
                        failed[run] = last_words(run.log)
                        console.say(f"failed: {run.folder}: {failed[run]}")
    finally:
        _stop(running.values())
    return failed


def _start(run, jobs, lock_file):
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if jobs > 1:
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        environment.update(TF_NUM_INTRAOP_THREADS=threads, TF_NUM_INTEROP_THREADS=threads)
        environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    resume = ["--resume"] if (run.folder / "config.json").is_file() else []
    with open(run.log, "a") as log:
        return subprocess.Popen(
            [sys.executable, str(TRAIN), *run.job.as_options(), *resume],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(lock_file,),
            # Ctrl-C reaches the trainings once, from here, not a second time from the terminal.
            start_new_session=True,
        )


def last_words(log):
    """Returns the last line of a log that is an error, or else its last line."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["no output"])[-1]


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


def _status(planned, running, failed, jobs):
    left = seconds_left(planned, failed, jobs)
    words = [f"about {duration(left)} left" if left is not None else "time left: not known yet"]
    for run in running:
        words.append(f"{run.folder.name}: epoch {len(run.history) + 1}/{run.job.recipe.epochs}")
    return "; ".join(words)


def seconds_left(planned, failed, jobs):
    """Returns the seconds that the missing runs still take, or `None` before the first epoch.

    They follow from the epochs that this machine has trained.
    """
    done = {run: run.history for run in planned}
    seconds, trained = collections.Counter(), collections.Counter()  # of each variant
    for run, rows in done.items():
        seconds[run.variant] += sum(row["seconds"] for row in rows)
        trained[run.variant] += run.work(range(len(rows)))
    paces = {name: seconds[name] / work for name, work in trained.items() if work}
    if not paces:
        return None
    unknown = statistics.fmean(paces.values())
    unfinished = [run for run in planned if not run.finished and run not in failed]
    total = sum(
        run.work(range(len(done[run]), run.job.recipe.epochs)) * paces.get(run.variant, unknown)
        for run in unfinished
    )
    return total / max(1, min(jobs, len(unfinished)))
