"""The runs of a comparison, every variant with every seed: where they are, and how."""

import dataclasses
import functools
import shutil
import sys
from pathlib import Path

from training import recipes, runs
from training.cli import InputError
from training.variants import Variant, as_json

TRAIN = Path(__file__).with_name("train.py")
KEPT = ("config.json", "history.csv", "result.json")  # the last makes a run finished


@dataclasses.dataclass(frozen=True)
class Run:
    """A variant with a seed: its run folder, and the one that keeps its small files."""

    variant: Variant
    seed: int
    folder: Path
    kept: Path

    @property
    def record(self):
        """Where its settings and figures are: kept, if its run folder is elsewhere or gone."""
        elsewhere = runs.is_finished(self.kept) and not runs.is_finished(self.folder)
        return self.kept if elsewhere else self.folder

    @property
    def finished(self):
        """Whether it has its result, here or kept."""
        return runs.is_finished(self.record)

    def keep(self):
        """Copies the small files of a run that finished here."""
        if self.record == self.kept:
            return
        self.kept.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            copy = functools.partial(shutil.copyfile, self.folder / name)
            runs.write_atomically(self.kept / name, copy)


def plan(variants, seeds, runs_dir, out):
    """Returns the runs seed by seed, so that each finished seed is a whole comparison."""
    names = [(v, seed, f"{v.folder_name}-s{seed}") for seed in seeds for v in variants]
    return [
        Run(v, seed, Path(runs_dir) / name, Path(out) / "runs" / name) for v, seed, name in names
    ]


def check_folders(grid, asked):
    """Raises an InputError for the first run, begun or kept, of other settings than now.

    Args:
        grid: List of `Run`.
        asked: Dictionary, what `config.json` must hold beside the variant's settings and seed;
            `steps_per_epoch` and `precision` may be `None` (all the images) and `"auto"`.
    """
    first = None
    folders = [(run, folder) for run in grid for folder in (run.folder, run.kept)]
    for run, folder in folders:
        if not (folder / "config.json").is_file() and not runs.is_finished(folder):
            continue
        config = runs.read_json(folder / "config.json")
        try:
            # A setting that came later than the run was the default.
            found = {**as_json(recipes.Recipe()), **config, **config["recipe_settings"]}
            whole = found["training_images"] // found["batch_size"]
            first = first or found
            alike = {key: first[key] for key in ("training_images", "classes", "precision")}
        except (KeyError, TypeError):
            raise InputError(f"{folder}/config.json is not that of a training.") from None
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
                    f"{folder} was begun with other settings: {key}: {found.get(key)} there, "
                    f"{value} here. Give those settings, or another --out and --runs-dir."
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
