"""From a recipe to a finished run folder."""

import dataclasses
import time
from pathlib import Path

import keras

from keras_nam.models import STEMS, parse_arch
from training import augment, checkpoints, data, devices, loop, network, runs, saved_model
from training.cli import InputError, check_name
from training.evaluation import evaluate
from training.recipes import IMAGE_SIZE


@dataclasses.dataclass(frozen=True)
class Job:
    """A training: what is trained, on what, how, and where its run folder is."""

    arch: str
    recipe_name: str
    recipe: object
    dataset: str = "cifar100"
    data_dir: str | None = None
    validation_split: float = 0.0
    steps_per_epoch: int | None = None
    precision: str = "auto"
    strategy: str = "auto"
    seed: int = 0
    stem: str = "cifar"
    run_dir: str | None = None
    resume: bool = False
    checkpoint_every: int | None = None
    fold: bool = True
    quiet: bool = False

    @property
    def folder(self):
        """The run folder."""
        name = f"{self.arch}-{self.recipe_name}-s{self.seed}"
        return Path(self.run_dir) if self.run_dir else Path(runs.ROOT) / name


def train(job, say=print):
    """Trains, evaluates on the test set and leaves the run folder.

    Args:
        job: A `Job`.
        say: Function of a line for a person.

    Returns:
        The result, what `result.json` holds.

    Raises:
        InputError: On settings that do not fit; nothing has been written then.
        FailedError: If the loss is not finite.
        Terminated: On SIGTERM, after a checkpoint.
    """
    check(job)
    precision = devices.choose_precision(job.precision, say)
    strategy = devices.make_strategy(job.strategy, job.recipe.batch_size, say)
    keras.utils.set_random_seed(job.seed)
    recipe = job.recipe
    dataset = data.load(job.dataset, job.data_dir, job.validation_split, job.seed)
    whole_epoch = data.steps_per_epoch(dataset.train, recipe.batch_size)
    steps = min(job.steps_per_epoch or whole_epoch, whole_epoch)
    folder = runs.start(job.folder, configuration(job, dataset, steps, precision), job.resume)
    if runs.is_finished(folder):
        say(f"{folder} is finished already.")
        return runs.read_json(folder / "result.json")
    busy = f"Another training writes into {folder}. Wait for its end, or give another --run-dir."
    with runs.lock(folder / ".lock", busy):
        return _train_rest(job, dataset, steps, precision, strategy, folder, say)


def _train_rest(job, dataset, steps, precision, strategy, folder, say):
    """Trains from the newest checkpoint of a run folder on, or from the start, and finishes it."""
    recipe = job.recipe
    say(f"{dataset.source}: {len(dataset.train)} training images, {dataset.held_out_name} held out")

    with strategy.scope():
        model, position, warnings = checkpoints.load_newest(folder)
        if model is None:
            model = network.compiled_model(job, dataset, steps, precision)
        models = network.at_sizes(model, recipe, steps)
    for warning in warnings:
        say(f"warning: {warning}")
    say(
        f"{job.arch}: {model.count_params():,} parameters, {precision}, "
        f"epochs {position.epochs + 1}–{recipe.epochs} of {steps} steps, into {folder}"
    )
    rows = loop.fit(job, models, dataset, steps, position, folder, say)

    if job.validation_split:
        model = keras.saving.load_model(folder / "best.keras")
    return finish(job, model, dataset, rows, folder, say)


def configuration(job, dataset, steps, precision):
    """Returns what `config.json` holds: every resolved setting, and where it ran."""
    return {
        "arch": job.arch,
        "recipe": job.recipe_name,
        "recipe_settings": dataclasses.asdict(job.recipe),
        "stem": job.stem,
        "seed": job.seed,
        "dataset": job.dataset,
        "classes": len(dataset.class_names),
        "training_images": len(dataset.train),
        "validation_split": job.validation_split,
        "held_out": dataset.held_out_name,
        "steps_per_epoch": steps,
        "precision": precision,
        "strategy": job.strategy,
        "environment": {"data": dataset.source, **runs.environment()},
    }


def check(job):
    """Raises an InputError for names that are in no table, before anything is read or written."""
    try:
        _, _, attention = parse_arch(job.arch)
    except ValueError as error:
        raise InputError(f"--arch {job.arch}: {error}") from None
    check_name("stem", job.stem, STEMS)
    augment.compose(job.recipe.augment)
    if attention in ("nam_spatial", "nam_full") and set(job.recipe.image_sizes) != {IMAGE_SIZE}:
        raise InputError(
            f"--arch {job.arch} has parameters for each position, which are bound to one size of "
            f"the images. Give --image-sizes {IMAGE_SIZE}."
        )


def finish(job, model, dataset, rows, folder, say):
    """Evaluates on the test set, writes the SavedModel and, last of all, `result.json`."""
    recipe = job.recipe
    started = time.perf_counter()
    test = data.evaluation_stream(dataset.test, recipe.batch_size, recipe.mean, recipe.std)
    scores = evaluate(model, test)
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
    runs.write_json(folder / "result.json", result)
    say(
        f"test top-1 {scores['top1']:.2%}, top-5 {scores['top5']:.2%}, loss {scores['loss']:.4f} "
        f"({time.perf_counter() - started:.0f} s to evaluate and save)"
    )
    return result
