"""A job: every setting of a training, as a command line and a run's `config.json` have them."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from training import recipes
from training.cli import InputError
from training.data.sources import DATASETS, Options
from training.recipes import SMALLEST
from training.runs import files
from training.settings import (
    POSITIVE,
    SHARE,
    Range,
    as_json,
    as_options,
    check,
    from_json,
    names_in,
    pop_options,
    setting,
)

BACKBONES = names_in("keras_nam.models.__init__", "BACKBONES")
ATTENTIONS = names_in("keras_nam.attention.__init__", "ATTENTIONS")
STEMS = names_in("keras_nam.models.resnet", "STEMS")
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
STRATEGIES = ("auto", "none", "mirrored", "multihost")
SCALINGS = ("none", "linear")
CACHES = ("auto", "memory", "disk", "none")
OLD_IMAGE_SIZE = (32, 32)  # of runs whose config.json does not say it
LARGEST_OF_CIFAR_STEM = 96  # pixels

SIZE = Range(
    f"one or two numbers of {SMALLEST} or more",
    lambda values: len(values) <= 2 and min(values, default=SMALLEST) >= SMALLEST,
)
SEEDS = Range("0 to 4294967295", lambda value: 0 <= value < 2**32)
FRACTION = Range("above 0 and up to 1", lambda value: 0 < value <= 1)
COUNT = Range("1 or more", lambda value: value >= 1)

_of_what = partial(setting, group="what is trained")
_of_data = partial(setting, group="the data")
_of_how = partial(setting, group="the machine and the run")


@dataclass(frozen=True)
class Job:
    """A training: the network, the data set, the recipe, the machine and the run folder."""

    arch: str = _of_what(
        "r50_nam",
        f"<backbone>[w<width>][_<attention>]: {' '.join(BACKBONES)}; {' '.join(ATTENTIONS)}",
    )
    recipe_name: str = _of_what(
        "paddle",
        f"{', '.join(str(recipe.epochs) for recipe in recipes.RECIPES.values())} epochs; the first "
        "two need a GPU; --dry-run measures the time",
        recipes.RECIPES,
        option="recipe",
    )
    recipe: recipes.Recipe = recipes.PADDLE
    stem: str | None = _of_what(
        None, f"default: cifar up to {LARGEST_OF_CIFAR_STEM} pixels, else imagenet", STEMS
    )
    init: str | None = _of_what(
        None,
        "initial weights: a file (.pth, .safetensors, .npz, .pdparams, .keras) or a run folder",
    )
    seed: int = _of_what(
        0, "of the initial weights, the order of the images and the augmentations", SEEDS
    )
    dataset: str = _of_data(
        "cifar100", f"{', '.join(DATASETS)}, a folder of pictures, or tfds:NAME"
    )
    data_dir: str | None = _of_data(
        None,
        "folder of TFDS, or with cifar-100-python.tar.gz or its unpacked folder (default: "
        "TFDS_DATA_DIR, or else TFDS downloads it); the new place of a folder that was moved",
    )
    image_size: tuple[int, ...] = _of_data(
        (),
        "height and width, one or two numbers (default: the data set's, or 224)",
        SIZE,
        unit="PIXELS",
    )
    crop_fraction: float | None = _of_data(
        None,
        "share of the resized picture that is evaluated, its centre (default: 0.875 for pictures, "
        "all of an image that has its size)",
        FRACTION,
    )
    test_split: float = _of_data(0.1, "share of a folder's pictures to test on", SHARE)
    validation_split: float = _of_data(
        0.0,
        "share of the training images held out, 0–1; if above 0, each epoch is evaluated on them "
        "instead of the test set",
        SHARE,
    )
    skip_unreadable: bool = _of_data(False, "leave out pictures that cannot be read")
    cache: str = _of_data("auto", "where decoded pictures are kept", CACHES)
    precision: str = _of_how("auto", "auto: mixed_float16 on a GPU that has it", PRECISIONS)
    strategy: str = _of_how(
        "auto",
        "auto: mirrored over several GPUs, multihost in a launched process; multihost: Keras on "
        "JAX, see training/launch.py",
        STRATEGIES,
    )
    sync_bn: bool = _of_how(
        False, "mirrored: normalize by the whole batch, as multihost does, and not by device"
    )
    scale_lr: str = _of_how(
        "none",
        "none: the batch is shared by all devices; linear: batch size and learning rate are "
        "multiplied by the number of devices",
        SCALINGS,
    )
    steps_per_epoch: int | None = _of_how(None, "(default: all the images)", COUNT, unit="STEPS")
    run_dir: str | None = _of_how(None, "the run folder (default: runs/<arch>-<recipe>-s<seed>)")
    resume: bool = _of_how(False, "resume the run folder's training")
    checkpoint_every: int | None = _of_how(
        None,
        "between two checkpoints (default: one after each epoch, and on Ctrl-C and SIGTERM)",
        COUNT,
        unit="STEPS",
    )
    fold: bool = _of_how(True, "fold the SavedModel's normalizations into its convolutions")
    minutes: float | None = _of_how(
        None,
        "of training and evaluation, instead of --epochs: as many epochs as fit, by a measurement "
        "at the start",
        POSITIVE,
        unit="MINUTES",
    )
    dry_run: bool = _of_how(
        False, "only print the resolved settings and how long the training takes here"
    )
    find_lr: bool = _of_how(False, "only sweep the learning rate, and suggest one")
    quiet: bool = _of_how(False, "one line an epoch, for logs")

    @property
    def folder(self):
        """The run folder."""
        name = f"{self.arch}-{self.recipe_name}-s{self.seed}"
        return Path(self.run_dir) if self.run_dir else Path(files.ROOT) / name

    @property
    def data(self):
        """The arguments of `datasets.load`."""
        return {"name": self.dataset, **{key: getattr(self, key) for key in DATA}}

    def as_options(self):
        """Returns the words of the train.py command line that trains this job."""
        named = recipes.RECIPES[self.recipe_name]
        return [*as_options(self, Job()), *as_options(self.recipe, named)]

    def as_config(self):
        """Returns the entries of `config.json` that a job sets: all that its numbers depend on."""
        settings = as_json(self)
        return {key: settings[name] for key, name in CONFIG.items()}

    @classmethod
    def from_config(cls, config, folder):
        """Returns the job of the `config.json` of a run folder; what it lacks has its default.

        Raises:
            InputError: If the content is not a training's.
        """
        try:
            settings = {name: config[key] for key, name in CONFIG.items() if key in config}
            recipe = dict(config["recipe_settings"])
            sizes = recipe.pop("image_sizes", None)  # its name in older runs
            if sizes and len(sizes) > 1:
                recipe["progressive_sizes"] = sizes
            settings["recipe"] = from_json(recipes.Recipe, recipe)
            settings["image_size"] = tuple(settings.get("image_size", OLD_IMAGE_SIZE))
        except (AttributeError, KeyError, TypeError):
            raise InputError(f"{folder}/config.json is not a training's.") from None
        return cls(**settings, run_dir=str(folder))


DATA = [field.name for field in dataclasses.fields(Options) if hasattr(Job, field.name)]

# Entry of `config.json` -> field of a job.
CONFIG = {
    "arch": "arch",
    "recipe": "recipe_name",
    "recipe_settings": "recipe",
    "stem": "stem",
    "seed": "seed",
    "dataset": "dataset",
    "image_size": "image_size",
    "crop_fraction": "crop_fraction",
    "test_split": "test_split",
    "validation_split": "validation_split",
    "skip_unreadable": "skip_unreadable",
    "steps_per_epoch": "steps_per_epoch",
    "precision": "precision",
    "sync_bn": "sync_bn",
}


def read_job(args):
    """Returns the `Job` of a dictionary of parsed options; other entries are left in it.

    Raises:
        InputError: If a setting is not allowed.
    """
    overrides = pop_options(args, recipes.Recipe)
    given = pop_options(args, Job)
    recipe = recipes.get(given.get("recipe_name", Job.recipe_name), **overrides)
    return check(Job(recipe=recipe, **given))
