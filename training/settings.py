"""Settings as dataclass fields, and the forms that they take.

A field declares a setting once, with a help text and a check. Its command-line option, its
`key=value` text (`compare.py --archs`) and its place in `config.json` derive from the field.
"""

import argparse
import ast
import dataclasses
import json
import math
import typing
from collections.abc import Callable
from pathlib import Path

from training.cli import InputError, check_name


class Range(typing.NamedTuple):
    """The values that a setting accepts: their description, and a function of a value."""

    expected: str
    accepts: Callable


POSITIVE = Range("a number above 0", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Range("0 or more", lambda value: 0 <= value < math.inf)
SHARE = Range("at least 0 and below 1", lambda value: 0 <= value < 1)


def names_in(module, table):
    """Returns the keys of a table, a dictionary of a module of this project.

    They are read from its source. Importing Keras with it would make --help slow.
    """
    path = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and statement.targets[0].id == table:
            return tuple(ast.literal_eval(key) for key in statement.value.keys)
    raise LookupError(f"{module} has no table {table}")


def setting(default, text, allowed=None, group="", option=None, words=(), unit=None):
    """Returns the field of a setting.

    Args:
        default: Its default value.
        text: The help text of its option.
        allowed: A `Range`, or the names that it accepts, which the help lists. `None` for no check.
        group: The heading of its option in the help.
        option: The option's name, if it is not the field's.
        words: Strings that stand for numbers, such as `"auto"`.
        unit: String, of its number, which the help shows.
    """
    if allowed is not None and not isinstance(allowed, Range):
        text = f"{', '.join(allowed)}{text and f' ({text})'}"
    metadata = {"text": text, "allowed": allowed, "group": group, "option": option}
    metadata |= {"words": words, "unit": unit}
    return dataclasses.field(default=default, metadata=metadata)


def check(settings):
    """Returns a dataclass of settings; InputError at the first one that is not allowed."""
    for field in dataclasses.fields(settings):
        value, allowed = getattr(settings, field.name), field.metadata.get("allowed")
        if isinstance(allowed, Range):
            if value is not None and not allowed.accepts(value):
                refuse(settings, field.name, allowed.expected)
        elif None not in (allowed, value):
            check_name(field.metadata["option"] or field.name, value, allowed)
    return settings


def refuse(settings, name, expected):
    """Raises the InputError for a setting out of its range."""
    option = _option(_field(settings, name))
    raise InputError(f"{option} {getattr(settings, name)}: expected {expected}.")


def _field(settings, name):
    return next(field for field in dataclasses.fields(settings) if field.name == name)


def _option(field):
    return "--" + (field.metadata["option"] or field.name).replace("_", "-")


def _kind(field):
    """Returns the type of a setting, or of a tuple's parts."""
    return (typing.get_args(field.type) or (field.type,))[0]


def _reader(field):
    """Returns the function of a word of the command line."""
    part, words = _kind(field), field.metadata["words"]
    if not words:
        return part

    def read(text):
        return text if text in words else part(text)

    read.__name__ = part.__name__  # for argparse's message
    return read


def add_options(parser, kind, defaults=True, names=None):
    """Adds the options of a dataclass to a parser, in the groups of its fields.

    Args:
        parser: The parser.
        kind: The dataclass.
        defaults: Whether a missing option has the field's default, or else `None`.
        names: The fields to add; all that `setting` declared by default.
    """
    groups = {}
    for field in dataclasses.fields(kind):
        if not field.metadata or (names is not None and field.name not in names):
            continue
        heading = field.metadata["group"]
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        given = {"dest": field.name, "help": field.metadata["text"]}
        if defaults:
            given["default"] = field.default
        if defaults and field.default not in (None, ()) and field.default is not False:
            given["help"] += " (default: %(default)s)"
        part = _kind(field)
        if part is bool:
            given["action"] = argparse.BooleanOptionalAction
        else:
            given["type"] = _reader(field)
            named = {int: "N", float: "X"}.get(part, _option(field)[2:].upper())
            given["metavar"] = field.metadata["unit"] or named
        if isinstance(field.default, tuple):
            given["nargs"] = "*"
        groups[heading].add_argument(_option(field), **given)


def pop_options(args, kind):
    """Removes the settings of a dataclass from a dictionary of parsed options, and returns them.

    Missing settings, and settings that are `None`, are left out.
    """
    found = {field.name: args.pop(field.name, None) for field in dataclasses.fields(kind)}
    return {key: _frozen(value) for key, value in found.items() if value is not None}


def _frozen(value):
    return tuple(value) if isinstance(value, list) else value


def as_options(settings, base):
    """Returns the words of a command line for the settings that differ from `base`."""
    words = []
    for field in dataclasses.fields(base):
        value = getattr(settings, field.name)
        if not field.metadata or value == getattr(base, field.name):
            continue
        option = _option(field)
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            words += [option, *map(str, value)]
        else:
            words.append(f"{option}={value}")
    return words


def from_text(kind, key, text):
    """Returns the value of `key=text`, where `key` is a field; `+` joins the parts of a tuple.

    Raises:
        InputError: If the text is not of the field's type.
    """
    field = _field(kind, key)
    part = _kind(field)
    try:
        if part is bool:
            return {"true": True, "false": False}[text.lower()]
        if isinstance(field.default, tuple):
            return tuple(map(_reader(field), text.split("+")))
        return part(text)
    except (KeyError, ValueError):
        expected = "true or false" if part is bool else part.__name__
        raise InputError(f"{key}={text}, expected {expected}.") from None


def as_json(settings):
    """Returns the settings of a dataclass as a JSON file returns them."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def from_json(kind, content):
    """Returns the dataclass of JSON content; a setting that the content lacks has its default."""
    return kind(**{key: _frozen(value) for key, value in content.items()})
