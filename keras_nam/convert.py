"""Converts a checkpoint of PyTorch or Paddle to Keras, or back, and proves it with PyTorch.

python -m keras_nam.convert r50_nam.pth r50_nam.keras --arch r50_nam
"""

import argparse
import importlib.util
import sys
import warnings
from pathlib import Path

TARGETS = {
    "keras": (".keras", ".weights.h5"),
    "torch": (".pth", ".pt", ".bin"),
    "paddle": (".pdparams",),
    "safetensors": (".safetensors",),
}
SOURCES = ("auto", "official", "torchvision", "weiaicunzai", "paddle", "keras")


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m keras_nam.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="Exit status: 0 done, 1 the networks differ by more than the tolerance, "
        "2 bad usage or bad input.",
    )
    parser.add_argument("source", metavar="IN", type=Path, help="the checkpoint")
    parser.add_argument("target", metavar="OUT", type=Path, help="the file to write")
    network = parser.add_argument_group("the network")
    network.add_argument("--arch", required=True, help="such as r50_nam")
    network.add_argument(
        "--num-classes", type=_positive, default=100, metavar="N", help="default: 100"
    )
    network.add_argument("--stem", choices=("cifar", "imagenet"), default="cifar")
    network.add_argument(
        "--image-size",
        type=_positive,
        metavar="N",
        help="height and width, pixels (default: 32, or 224 for the imagenet stem)",
    )
    formats = parser.add_argument_group("the formats")
    formats.add_argument(
        "--from", dest="source_format", choices=SOURCES, default="auto", help="default: auto"
    )
    formats.add_argument(
        "--to", dest="target_format", choices=TARGETS, help="default: by the suffix of OUT"
    )
    formats.add_argument(
        "--names",
        choices=("official", "weiaicunzai"),
        default="official",
        help="the names in a torch or safetensors OUT (default: official)",
    )
    formats.add_argument(
        "--weights",
        metavar="KEY",
        help="the weights to take where IN holds several, such as state_dict_ema "
        "(default: weights that are not averaged)",
    )
    formats.add_argument(
        "--no-strict",
        dest="strict",
        action="store_false",
        help="convert what fits, and report the rest",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=5e-6,
        metavar="D",
        help="largest difference of the logits, relative to the largest logit (default: 5e-6)",
    )
    return parser.parse_args(argv)


def _positive(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive integer, received {text!r}")
    return int(text)


def main(argv=None):
    """Runs the command; returns its exit status."""
    arguments = parse_arguments(argv)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        try:
            status = 0 if convert(arguments) else 1
        except (ValueError, ImportError, OSError) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    return status


def convert(arguments):
    """Converts, and prints the steps; returns `False` where the networks differ."""
    source, target = arguments.source, arguments.target
    target_format = _check(source, target, arguments.target_format)

    from keras_nam.models import create_model, image_shape
    from keras_nam.weights import find, load_weights
    from keras_nam.weights.files import read_checkpoint

    size = arguments.image_size or (224 if arguments.stem == "imagenet" else 32)
    model = create_model(
        arguments.arch, arguments.num_classes, image_shape(size), stem=arguments.stem
    )
    contents = read_checkpoint(source)
    options = {"format": arguments.source_format, "weights": arguments.weights}
    report = load_weights(model, contents, strict=arguments.strict, **options)
    print(f"read {source}: {_summary(report)}")
    checkpoints = {}
    if report.format != "keras" and not report.missing and not report.mismatched:
        arrays = find(model, contents, **options).arrays
        checkpoints[source] = ({key: arrays[key] for key in report.loaded}, report.format)
    names = write(model, target, target_format, arguments.names)
    print(f"wrote {target}: {target_format}" + (f", {names} names" if names else ""))
    if target_format != "keras":
        written = find(model, target, format=names or "paddle")
        checkpoints[target] = (written.arrays, written.format)
    return prove(model, checkpoints, arguments)


def _check(source, target, target_format):
    """Checks the paths; returns the format to write."""
    suffixes = [suffix for known in TARGETS.values() for suffix in known]
    found = [name for name, known in TARGETS.items() if target.name.endswith(known)]
    if not found and not target_format:
        raise ValueError(f"{target} has none of the suffixes {', '.join(suffixes)}. Rename OUT")
    target_format = target_format or found[0]
    if source.resolve() == target.resolve():
        raise ValueError(f"IN and OUT are the same file, {source}")
    if not source.is_file():
        raise ValueError(f"{source} is not an existing file")
    if not target.parent.is_dir():
        raise ValueError(f"The folder {target.parent} does not exist. Create it first")
    if target_format not in found:
        known = " or ".join(TARGETS[target_format])
        raise ValueError(f"{target}: expected a name that ends in {known} for {target_format}")
    return target_format


def _summary(report):
    """Returns a line about the weights that were read and ignored."""
    place = f" of {report.weights!r}" if report.weights else ""
    rest = "" if report.fits else f" ({report})"
    named = ", ".join(report.ignored[:5]) + (", ..." if len(report.ignored) > 5 else "")
    ignored = f"; not used: {named}" if named else ""
    return f"{report.format}, {len(report.loaded)} weights{place}{rest}{ignored}"


def write(model, path, target_format, names):
    """Writes a model; returns the names used, `None` for a format without a choice."""
    from keras_nam.weights import files, to_paddle_state_dict, to_torch_state_dict

    is_mobilenet = any(layer.name == "head_conv" for layer in model.layers)
    names = "weiaicunzai" if is_mobilenet else names
    # The file has its name only when it is complete.
    part = path.with_name(f".part-{path.name}")
    try:
        if target_format == "torch":
            files.write_torch(to_torch_state_dict(model, names), part)
        elif target_format == "safetensors":
            files.write_safetensors(to_torch_state_dict(model, names), part)
        elif target_format == "paddle":
            files.write_paddle(to_paddle_state_dict(model), part)
        else:
            (model.save if path.suffix == ".keras" else model.save_weights)(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return names if target_format in ("torch", "safetensors") else None


def prove(model, checkpoints, arguments):
    """Runs the same images through the model and through PyTorch's network of each checkpoint."""
    if not checkpoints:
        print("not proved: neither file is a complete checkpoint of another framework")
        return True
    if importlib.util.find_spec("torch") is None:
        print("not proved: PyTorch is not installed")
        return True
    from keras_nam.torch_twin import largest_difference

    is_equal = True
    for path, (arrays, format) in checkpoints.items():
        difference = largest_difference(model, arrays, format, arguments.arch, arguments.stem)
        within = difference <= arguments.tolerance  # false for NaN
        is_equal = is_equal and within
        print(
            f"{'proved' if within else 'DIFFERENT'}: {path} in PyTorch and the model in Keras give "
            f"logits that differ by {difference:.1e} of the largest "
            f"(tolerance {arguments.tolerance:.0e})"
        )
    return is_equal


if __name__ == "__main__":
    sys.exit(main())
