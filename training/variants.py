"""What a comparison compares: archs, each with settings of its own if it has some."""

import dataclasses
import json
import re

from training import recipes
from training.cli import InputError, check_name

BOOLEANS = {"true": True, "false": False}


@dataclasses.dataclass(frozen=True)
class Variant:
    """An entry of `--archs`: its text, which names it in tables, and what it means."""

    name: str
    arch: str
    stem: str
    recipe_name: str
    recipe: recipes.Recipe

    @property
    def folder_name(self):
        """The name with every character replaced that a path or a shell could take amiss."""
        return re.sub(r"[^\w.+-]", "-", self.name)

    def configuration(self):
        """Returns what the variant settles of a run's `config.json`, the recipe's settings flat."""
        settings = as_json(self.recipe)
        return {"arch": self.arch, "recipe": self.recipe_name, "stem": self.stem, **settings}


def as_json(recipe):
    """Returns a recipe's settings as a `config.json` gives them back."""
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def read_variants(text, recipe_name, overrides):
    """Returns the variants of `--archs`.

    Args:
        text: String, `arch[:key=value…],…`; a key is a setting of the recipe, or `stem`.
        recipe_name: String, a key of `recipes.RECIPES`.
        overrides: Dictionary, the recipe's settings that are changed for every arch, or `None`.

    Returns:
        A list of `Variant`.

    Raises:
        InputError: On an entry that is empty, twice there, or not known, or a setting that does
            not fit.
    """
    variants = [_variant(entry.strip(), recipe_name, overrides) for entry in text.split(",")]
    _refuse_duplicates("--archs", [variant.folder_name for variant in variants])
    return variants


def read_seeds(text):
    """Returns the seeds of `--seeds`, integers of 0 to 2^32 - 1; InputError on any other."""
    try:
        seeds = [int(entry) for entry in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or max(seeds) >= 2**32:
        raise InputError(f"--seeds {text}: expected whole numbers, 0 or more, such as 0,1,2.")
    _refuse_duplicates("--seeds", seeds)
    return seeds


def _refuse_duplicates(option, entries):
    twice = [entry for index, entry in enumerate(entries) if entry in entries[:index]]
    if twice:
        raise InputError(f"{option}: {twice[0]} is there twice; give each once.")


def _variant(entry, recipe_name, overrides):
    arch, *pairs = entry.split(":")
    if not arch:
        raise InputError("--archs has an empty entry; expected arch[:key=value…],…")
    settings = {"stem": "cifar"}
    for pair in pairs:
        key, _, value = pair.partition("=")
        settings[key] = _typed(entry, key, value)
    stem = settings.pop("stem")
    try:
        recipe = recipes.get(recipe_name, **{**overrides, **settings})
    except InputError as error:
        raise InputError(f"--archs {entry}: {error}" if settings else str(error)) from None
    return Variant(entry, arch, stem, recipe_name, recipe)


def _typed(entry, key, text):
    """Returns the value of a setting, of its field's type; a tuple's parts are joined by `+`."""
    defaults = {field.name: field.default for field in dataclasses.fields(recipes.Recipe)}
    defaults["stem"] = "cifar"
    check_name(f"setting of --archs {entry}:", key, defaults)
    default = defaults[key]
    try:
        if isinstance(default, bool):
            return BOOLEANS[text.lower()]
        if isinstance(default, tuple):
            return tuple(type(default[0])(part) for part in text.split("+"))
        return type(default)(text)
    except (KeyError, ValueError):
        expected = "true or false" if isinstance(default, bool) else type(default).__name__
        raise InputError(f"--archs {entry}: {key}={text}, expected {expected}.") from None
