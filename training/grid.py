"""The runs of a comparison, every variant with every seed: where they are, and how."""

import dataclasses
import sys
from pathlib import Path

from training import recipes, runs
from training.cli import InputError
from training.variants import Variant

TRAIN = Path(__file__).with_name("train.py")


@dataclasses.dataclass(frozen=True)
class Run:
    """A variant with a seed, and where its run folder is."""

    variant: Variant
    seed: int
    folder: Path


def plan(variants, seeds, runs_dir):
    """Returns the runs seed by seed, so that each finished seed is a whole comparison."""
    return [
        Run(variant, seed, Path(runs_dir) / f"{variant.folder_name}-s{seed}")
        for seed in seeds
        for variant in variants
    ]


def check_folders(grid, asked):
    """Raises an InputError for the first run that was begun with other settings than now.

    Args:
        grid: List of `Run`.
        asked: Dictionary, what `config.json` must hold beside the variant's settings and seed;
            `steps_per_epoch` and `precision` may be `None` (all the images) and `"auto"`.
    """
    first = None
    for run in grid:
        if not (run.folder / "config.json").is_file():
            continue
        config = runs.read_json(run.folder / "config.json")
        try:
            found = {**config, **config["recipe_settings"]}
            whole = found["training_images"] // found["batch_size"]
        except (KeyError, TypeError):
            raise InputError(f"{run.folder}/config.json is not that of a training.") from None
        first = first or found
        alike = {key: first[key] for key in ("training_images", "classes", "precision")}
        steps = min(asked["steps_per_epoch"] or whole, whole)
        expected = {**run.variant.configuration(), "seed": run.seed, **asked, **alike}
        if asked["precision"] != "auto":
            expected["precision"] = asked["precision"]
        # Last, since it depends on the number of images.
        del expected["steps_per_epoch"]
        expected["steps_per_epoch"] = steps
        for key, value in expected.items():
            if found.get(key) != value:
                raise InputError(
                    f"{run.folder} was begun with other settings: {key}: {found.get(key)} there, "
                    f"{value} here. Give those settings, or another --runs-dir."
                )


def command(run, options):
    """Returns the command of a run's training.

    Args:
        run: A `Run`.
        options: List of strings, those that all runs have.
    """
    variant = run.variant
    arguments = [f"--arch={variant.arch}", f"--stem={variant.stem}", f"--seed={run.seed}"]
    arguments += [f"--recipe={variant.recipe_name}", f"--run-dir={run.folder}", "--quiet", *options]
    plain = recipes.RECIPES[variant.recipe_name]
    for field in dataclasses.fields(plain):
        value = getattr(variant.recipe, field.name)
        option = field.name.replace("_", "-")
        if value == getattr(plain, field.name):
            continue
        if isinstance(value, bool):
            arguments.append(f"--{'' if value else 'no-'}{option}")
        elif isinstance(value, tuple):
            arguments += [f"--{option}", *map(str, value)]
        else:
            arguments.append(f"--{option}={value}")
    if (run.folder / "config.json").is_file():
        arguments.append("--resume")
    return [sys.executable, str(TRAIN), *arguments]
