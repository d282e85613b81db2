"""Classifies pictures: by a run's SavedModel, an ONNX, LiteRT or Keras file, or a server."""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from export.runtime import images, local_models, preprocessing
from export.runtime.rest import RestClient
from export.runtime.signatures import IMAGE, IMAGE_BYTES, Scores, check
from training import cli
from training.runs import files

BATCH_SIZE = 64
LONGEST_TIMEOUT = 86_400
# What is sent for a picture, and how it is read.
FORMS = {"image": (IMAGE, images.read), "bytes": (IMAGE_BYTES, images.read_encoded)}


def main(argv=None):
    """Parses the command line `argv`, classifies, and prints a table or JSON."""
    args = _parse(argv)
    wanted, read = FORMS[args.signature]
    stated = preprocessing.from_options(args)
    if stated and wanted is not IMAGE:
        raise cli.InputError(f"{stated}: pixels are sent with --signature image only")
    pictures = [read(path) for path in args.images]
    model = _open_model(args)
    check(model.signatures(), wanted, model.source)
    # Of these models a .keras file alone does not take pixels of 0–255.
    form = stated or getattr(model, "preprocessing", preprocessing.UNCHANGED)
    if form is None:
        raise cli.InputError(
            f"{model.source} does not say how pictures are normalized: give --mean and --std as in "
            "its training, or --input-range 0..255 if the model normalizes them itself"
        )
    found = _predict(model, pictures, form)
    _refuse_nan(found, args.images, model.source)
    labels = _labels(args.labels, model, classes=found.logits.shape[1])
    predictions = [
        {"image": path, "top": _most_probable(args.top, labels, *row)}
        for path, *row in zip(args.images, *found, strict=True)
    ]
    if args.json:
        answer = {"model": model.source, "signature": args.signature, "predictions": predictions}
        print(json.dumps(answer, indent=2, allow_nan=False))
    else:
        Console().print(_table(predictions, model.source))


def _open_model(args):
    options = {"model": args.model_name, "version": args.model_version, "timeout": args.timeout}
    with cli.needing("train,export"):
        if args.url:
            return RestClient(args.url, **options)
        if args.grpc:
            from export.runtime.grpc_client import GrpcClient  # it imports TensorFlow

            return GrpcClient(args.grpc, **options)
        return local_models.open_model(args.model or files.newest_finished())


def _predict(model, pictures, form):
    batches = [pictures[i : i + BATCH_SIZE] for i in range(0, len(pictures), BATCH_SIZE)]
    found = [
        model.predict(batch if isinstance(batch[0], bytes) else form(np.stack(batch)))
        for batch in batches
    ]
    return Scores(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _refuse_nan(found, paths, source):
    finite = np.isfinite(found.logits) & np.isfinite(found.probabilities)
    for path, row in zip(paths, finite, strict=True):
        if not row.all():
            raise cli.FailedError(
                f"{source} answers NaN or infinity for {path}: the model is broken"
            )


def _labels(path, model, classes):
    """Returns the names of the classes, `None` for each where nobody knows them."""
    labels = local_models.read_labels(path) if path else model.labels
    if labels is None:
        return [None] * classes
    if len(labels) != classes:
        raise cli.InputError(
            f"{path or model.source} names {len(labels)} classes, and {model.source} answers"
            f" {classes}: give the names of this model's classes with --labels"
        )
    return labels


def _most_probable(count, labels, logits, probabilities):
    return [
        {
            "class": int(i),
            "label": labels[i],
            "probability": float(probabilities[i]),
            "logit": float(logits[i]),
        }
        # The same order, but an int8 model's probabilities have steps of 1/256.
        for i in np.argsort(-logits, kind="stable")[:count]
    ]


def _table(predictions, source):
    table = Table(title=Text(source), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("picture", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    for prediction in predictions:
        # A file's name may be no text at all.
        name = os.fsencode(prediction["image"]).decode(errors="replace")
        for entry in prediction["top"]:
            label = entry["label"] or f"class {entry['class']}"
            table.add_row(Text(name), Text(label), f"{entry['probability']:.2%}")
            name = ""
        table.add_section()
    return table


def _parse(argv):
    parser = cli.Parser(
        __doc__,
        epilog="Exit status: 0 done, 1 the model answered NaN, 2 bad usage or bad input.",
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help=f"a {', '.join(images.FORMATS)} file of at most {images.MAX_PIXELS // 1_000_000}"
        " megapixels; it is resized to 32×32, not cropped (antialiased, bilinear), and transparency"
        " is laid over white",
    )
    model = parser.add_argument_group("model", "By default the newest finished run under runs/.")
    where = model.add_mutually_exclusive_group()
    add = where.add_argument
    add(
        "--model",
        metavar="PATH",
        help="a run folder, a SavedModel or its base path, an ONNX file, a LiteRT file (.tflite), a"
        " Keras file (.keras)",
    )
    add("--url", help="TensorFlow Serving over REST, such as http://localhost:8501")
    add("--grpc", metavar="HOST:PORT", help="TensorFlow Serving over gRPC, such as localhost:8500")
    add = model.add_argument
    add(
        "--signature",
        choices=FORMS,
        default="image",
        help="what is sent: the 32×32 pixels (image), or the PNG or JPEG file (bytes), which the"
        " model decodes and resizes, without regard to EXIF orientation and transparency"
        " (default: %(default)s)",
    )
    add(
        "--labels",
        metavar="FILE",
        help="class names, one a line; a server knows none (default: the model's own)",
    )
    preprocessing.add_options(
        parser.add_argument_group(
            "pixels",
            "What the model takes, if it does not normalize RGB of 0-255 itself. A .keras file in a"
            " run's folder takes what that run's did.",
        )
    )
    add = parser.add_argument_group("server").add_argument
    add("--model-name", metavar="NAME", default="keras_nam", help="(default: %(default)s)")
    add("--model-version", metavar="N", type=_count, help="(default: the server's choice)")
    add(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help=f"for a call, of {BATCH_SIZE} pictures at most (default: %(default)g)",
    )
    add = parser.add_argument_group("output").add_argument
    add(
        "--top",
        metavar="K",
        type=_count,
        default=5,
        help="classes a picture (default: %(default)s)",
    )
    add("--json", action="store_true", help="JSON in place of a table")
    return parser.parse_args(preprocessing.joined(argv))


def _count(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def _seconds(text):
    try:
        if 0 < (value := float(text)) <= LONGEST_TIMEOUT:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds up to {LONGEST_TIMEOUT}")


if __name__ == "__main__":
    cli.run(main)
