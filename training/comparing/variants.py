"""What a comparison compares: the entries of --archs, each with its own settings."""

import dataclasses
import re

from training import jobs, recipes
from training.cli import InputError, check_name
from training.settings import check, from_text

# What an entry of --archs may set.
KINDS = {"stem": jobs.Job} | {
    field.name: recipes.Recipe for field in dataclasses.fields(recipes.Recipe)
}


def read_variants(text, base):
    """Returns each entry of `--archs` -> its `jobs.Job`; `base` has the shared settings.

    Raises:
        InputError: On an empty, repeated or unknown entry, or a setting that does not fit.
    """
    entries = [entry.strip() for entry in text.split(",")]
    variants = {entry: _job(entry, base) for entry in entries}
    _refuse_duplicates("--archs", [folder_name(entry) for entry in entries])
    return variants


def folder_name(variant):
    """Returns a variant's name without the special characters of paths and shells."""
    return re.sub(r"[^\w.+-]", "-", variant)


def read_seeds(text):
    """Returns the seeds of `--seeds`; InputError unless they are integers from 0 to 2^32 - 1."""
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
        raise InputError(f"{option}: {twice[0]} is given twice. Give each once.")


def _job(entry, base):
    arch, *pairs = entry.split(":")
    if not arch:
        raise InputError("--archs: empty entry, expected arch[:key=value…],…")
    own = {}
    try:
        for pair in pairs:
            key, _, text = pair.partition("=")
            check_name("setting", key, KINDS)
            own[key] = from_text(KINDS[key], key, text)
        stem = own.pop("stem", base.stem)
        recipe = recipes.changed(base.recipe, **own)
    except InputError as error:
        raise InputError(f"--archs {entry}: {error}") from None
    return check(dataclasses.replace(base, arch=arch, stem=stem, recipe=recipe))
