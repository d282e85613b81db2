"""The pixels that a network takes: their range, mean and standard deviation, order of channels.

The exported files take RGB of 0–255. A run's SavedModel normalizes them itself. For any other
model the user states the normalization, and the exporter puts it before the model.
"""

import argparse
import sys
from dataclasses import dataclass

import numpy as np

from training.cli import InputError, check_name

RANGES = {"0..255": (0.0, 255.0), "0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0)}
CHANNELS = ("rgb", "bgr")
OPTIONS = "--input-range, --mean, --std or --channels"


@dataclass(frozen=True)
class Preprocessing:
    """Converts pixels of 0–255 to `range`, subtracts `mean`, divides by `std`.

    Attributes:
        range: A key of `RANGES`.
        mean: Of R, G and B, in the units of the range.
        std: Likewise.
        channels: `"rgb"`, or `"bgr"` for a network that takes blue first.

    Raises:
        InputError: If an argument is something else, or a number of `std` is not above 0.
    """

    range: str = "0..255"
    mean: tuple = (0.0, 0.0, 0.0)
    std: tuple = (1.0, 1.0, 1.0)
    channels: str = "rgb"

    def __post_init__(self):
        check_name("input range", self.range, RANGES)
        if self.channels not in CHANNELS:
            raise InputError(f"channels {self.channels!r}: expected 'rgb' or 'bgr'")
        for name, least in (("mean", -np.inf), ("std", 0)):
            given = getattr(self, name)
            try:
                numbers = tuple(map(float, given))
            except (TypeError, ValueError):
                numbers = ()
            if len(numbers) != 3 or not all(least < number < np.inf for number in numbers):
                above = "" if least else " above 0"
                raise InputError(
                    f"{name} {given!r}: expected three numbers{above}, such as (0.5, 0.5, 0.5)"
                )
            object.__setattr__(self, name, numbers)

    def __call__(self, images):
        """Returns RGB images [N, H, W, 3] of 0–255 (array or tensor) as the network takes them."""
        if self.changes_values:
            scale, offset = self.scale_and_offset()
            images = images * scale - offset
        return images[..., ::-1] if self.channels == "bgr" else images

    def scale_and_offset(self):
        """Returns two float32 arrays [3]: the images become `images * scale - offset`.

        In this form the result equals `training.data.streams.normalize`, bit-exact.
        """
        low, high = RANGES[self.range]
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        scale = ((high - low) / (255 * std)).astype("float32")
        return scale, ((mean - low) / std).astype("float32")

    @property
    def changes_values(self):
        """Whether it does more than to order the channels."""
        scale, offset = self.scale_and_offset()
        return bool(np.any(scale != 1) or np.any(offset != 0))

    def __str__(self):
        """Returns it as command-line options."""
        words = [f"--input-range {self.range}"]
        if self.mean != (0, 0, 0) or self.std != (1, 1, 1):
            words += [f"--{key} {_numbers(getattr(self, key))}" for key in ("mean", "std")]
        if self.channels != "rgb":
            words.append(f"--channels {self.channels}")
        return " ".join(words)


UNCHANGED = Preprocessing()


def _numbers(values):
    return ",".join(f"{value:.10g}" for value in values)


def add_options(group):
    """Adds the options to a parser or a group of it."""
    group.add_argument(
        "--input-range",
        metavar="RANGE",
        help=f"of the pixels that the model takes: {', '.join(RANGES)} (default: 0..1 with --mean "
        "or --std, else 0..255)",
    )
    group.add_argument(
        "--mean",
        type=_three_numbers,
        metavar="R,G,B",
        help="subtracted, in the units of the range (default: 0,0,0)",
    )
    group.add_argument(
        "--std", type=_three_numbers, metavar="R,G,B", help="divided by (default: 1,1,1)"
    )
    group.add_argument(
        "--channels", choices=CHANNELS, help="the order that the model takes (default: rgb)"
    )


def from_options(args):
    """Returns the `Preprocessing` in the options, or `None` if none is given."""
    given = {
        "range": args.input_range,
        "mean": args.mean,
        "std": args.std,
        "channels": args.channels,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if args.mean or args.std:
        given.setdefault("range", "0..1")
    return Preprocessing(**given) if given else None


def _three_numbers(text):
    try:
        numbers = tuple(map(float, text.split(",")))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not np.isfinite(numbers).all():
        raise argparse.ArgumentTypeError(f"{text!r}: expected three numbers, such as 0.5,0.5,0.5")
    return numbers


def joined(argv):
    """Returns a command line with `--input-range -1..1` joined, which argparse takes apart."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for index, word in enumerate(argv[:-1]):
        if word == "--input-range":
            argv[index : index + 2] = [f"{word}={argv[index + 1]}"]
            break
    return argv
