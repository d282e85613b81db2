"""The runs of a comparison, every variant with every seed: their folders and their trainings."""

import contextlib
import dataclasses
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import tensorflow as tf

from training import console, recipes
from training.cli import InputError
from training.comparing.variants import folder_name
from training.data import datasets, sources, streams
from training.fitting import initial, resolve
from training.jobs import Job
from training.runs import files

TRAIN = Path(__file__).parents[1] / "train.py"
KEPT = ("config.json", "history.csv", "result.json")  # the last makes a run finished
OF_DATA = ("training_images", "classes", "image_size", "crop_fraction")
# Which older runs do not have; the file of --init may be gone.
LATER = ("class_names", "pictures", "normalization", "hash of --init")
POLL = 0.5  # seconds
PATIENCE = 20  # seconds that an interrupted training has to end by itself


@dataclasses.dataclass(frozen=True)
class Run:
    """A variant with a seed: its job, and the folder that keeps its small files."""

    variant: str
    job: Job
    kept: Path

    @property
    def folder(self):
        return self.job.folder

    @property
    def record(self):
        """The run folder, or the kept one if only that has a result."""
        elsewhere = files.is_finished(self.kept) and not files.is_finished(self.folder)
        return self.kept if elsewhere else self.folder

    @property
    def finished(self):
        return files.is_finished(self.record)

    def in_precision(self, precision):
        """Returns the run with this precision in the place of `auto`."""
        if self.job.precision != "auto":
            return self
        return dataclasses.replace(self, job=dataclasses.replace(self.job, precision=precision))

    @property
    def log(self):
        """The file of its training's output, beside the run folder."""
        return self.folder.with_name(self.folder.name + ".log")

    def keep(self):
        """Copies the small files of a run that finished here."""
        if not files.is_finished(self.folder):
            return
        self.kept.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            source = self.folder / name
            files.write_atomically(self.kept / name, functools.partial(shutil.copyfile, source))


def plan(variants, seeds, runs_dir, out):
    """Returns the runs seed by seed, so that each finished seed is a whole comparison."""
    planned = []
    for seed in seeds:
        for name, job in variants.items():
            folder = f"{folder_name(name)}-s{seed}"
            job = dataclasses.replace(job, seed=seed, run_dir=str(runs_dir / folder))
            planned.append(Run(name, job, out / "runs" / folder))
    return planned


def check_jobs(jobs):
    """Raises an InputError for a setting that a training would refuse."""
    with contextlib.suppress(RuntimeError):  # a TensorFlow that is initialized keeps its devices
        tf.config.set_visible_devices([], "GPU")  # the trainings need its memory
    for job in jobs:
        resolve.check(job)


def check_folders(planned, dataset=None):
    """Raises an InputError for the first run, begun or kept, with other settings than its job.

    Without the data set, the first run has the settings that depend on it.

    Returns:
        The first run's flat `config.json`; `None` if no run has begun.
    """
    first = None
    folders = [(run, folder) for run in planned for folder in (run.folder, run.kept)]
    for run, folder in folders:
        if not (folder / "config.json").is_file() and not files.is_finished(folder):
            continue
        config = files.read_json(folder / "config.json")
        found = files.flat({**config, **Job.from_config(config, folder).as_config()})
        given = found.get("init") or {}
        found |= {"init": given.get("source"), "hash of --init": given.get("sha256")}
        found["normalization"] = config.get("environment", {}).get("normalization")
        first = first or found
        try:
            expected = _expected(run.job, found, _of_data(run.job, first, dataset))
        except KeyError:
            raise InputError(f"{folder}/config.json is not a training's.") from None
        for key, value in expected.items():
            if key in LATER and None in (value, found.get(key)):
                continue
            if found.get(key) != value:
                raise InputError(
                    f"{folder} was started with other settings: {key}: {found.get(key)} there, "
                    f"{value} here. Give those settings, or another --out and --runs-dir."
                )
    return first


def _of_data(job, first, dataset):
    """Returns the settings that the data set decides, or that the first run has from it."""
    found = {key: first[key] for key in OF_DATA}
    names, content = first.get("class_names"), first.get("pictures")
    if dataset:
        counts = len(dataset.train), len(dataset.class_names)
        how = dataset.image_shape[:2], dataset.resize.crop_fraction
        found = dict(zip(OF_DATA, counts + how, strict=True))
        names, content = dataset.class_names, dataset.listing_hash
    size = sources.Options(image_size=job.image_size).height_and_width(found["image_size"])
    return {
        **found,
        "class_names": names,
        "pictures": content,
        "image_size": list(size),
        "crop_fraction": job.crop_fraction or found["crop_fraction"],
        "precision": first["precision"] if job.precision == "auto" else job.precision,
    }


def _expected(job, found, of_data):
    """Returns what a run's flat `config.json` must hold."""
    whole = of_data["training_images"] // found["batch_size"]
    job = dataclasses.replace(
        resolve.for_size(job, *of_data["image_size"]),
        steps_per_epoch=min(job.steps_per_epoch or whole, whole),
    )
    settings = files.flat(resolve.average(job).as_config())
    recipe, named = job.recipe, recipes.RECIPES[job.recipe_name]
    if recipe.mean == recipes.IMAGENET:
        settings |= {"mean": [*recipes.IMAGENET_MEAN], "std": [*recipes.IMAGENET_STD]}
    elif recipe.mean == recipes.AUTO or (
        job.init and (recipe.mean, recipe.std) == (named.mean, named.std)
    ):
        del settings["mean"], settings["std"]  # measured, or of the given weights
    return {
        **settings,
        **of_data,
        "dataset": sources.full_name(job.dataset),
        "normalization": recipe.normalization,
        "init": job.init and str(Path(job.init)),
        "hash of --init": job.init and _sha256(initial.weights_file(job.init)),
    }


@functools.cache
def _sha256(file):
    return files.sha256(file) if file.is_file() else None


def train_missing(planned, jobs, runs_dir, when_finished):
    """Trains the missing runs of a list, each in its own process.

    Args:
        planned: List of `Run`.
        jobs: Integer, processes at a time.
        runs_dir: Path of the runs' folder, which is locked.
        when_finished: Function, called after each finished run.

    Returns:
        Dictionary, each failed run to its error message.
    """
    missing = [run for run in planned if not run.finished]
    if missing:
        # Once, and not in each training: the data set may be wrong, or not downloaded.
        job = missing[0].job
        loaded = datasets.load(**job.data)
        first = check_folders(planned, loaded)
        if first:  # on another machine `auto` may choose another
            missing = [run.in_precision(first["precision"]) for run in missing]
        for run in missing:
            streams.steps_per_epoch(loaded.train, run.job.recipe.batch_size)
        del loaded
    runs_dir.mkdir(parents=True, exist_ok=True)
    busy = (
        f"Another comparison, or a training that it started, writes into {runs_dir}. Wait for its "
        "end, or give another --runs-dir."
    )
    for number in (signal.SIGTERM, signal.SIGHUP):  # of a scheduler, or a closed terminal
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, signal.default_int_handler)
    with files.lock(runs_dir / ".compare.lock", busy) as lock_file:
        return _train(missing, jobs, lock_file, when_finished)


def _train(missing, jobs, lock_file, when_finished):
    waiting, running, failed = list(missing), {}, {}
    try:
        with console.progress("runs", len(missing)) as advance:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.pop(0)
                    running[run] = _start(run, jobs, lock_file)
                    console.say(f"started: {run.folder}")
                advance(0, "; ".join(map(_progress, running)))
                time.sleep(POLL)
                for run in [run for run, process in running.items() if process.poll() is not None]:
                    if running.pop(run).returncode == 0 and run.finished:
                        console.say(f"finished: {run.folder}")
                        advance()
                        when_finished()
                    else:
                        failed[run] = _last_words(run.log)
                        console.say(f"failed: {run.folder}: {failed[run]}")
    except KeyboardInterrupt:
        print("\nFinished runs and checkpoints are kept. The same command resumes.")
        raise
    finally:
        _stop(running.values())
    return failed


def _progress(run):
    done = len(files.read_history(run.folder / "history.csv"))
    return f"{run.folder.name}: epoch {done + 1}/{run.job.recipe.epochs}"


def _start(run, jobs, lock_file):
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
            pass_fds=(lock_file,),  # a training that outlives this process keeps the lock
            # Ctrl-C reaches the trainings once, from here, not a second time from the terminal.
            start_new_session=True,
        )


def _last_words(log):
    """Returns the last line of a log that is an error, or else its last line."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["no output"])[-1]


def _stop(processes):
    """Interrupts the trainings, which write a checkpoint, and waits for their end."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(PATIENCE)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
            process.wait()
