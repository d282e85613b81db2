"""Classifies pictures: by a run's SavedModel, an ONNX, LiteRT or Keras file, or a server."""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from export.runtime import images, local_models, preprocessing
from export.runtime.signatures import IMAGE, IMAGE_BYTES, Scores, image_size
from training import cli, console
from training.runs import files

BATCH_SIZE = 64
LONGEST_TIMEOUT = 86_400
SIGNATURES = {"image": IMAGE, "bytes": IMAGE_BYTES}


def main(argv=None):
    """Parses the command line `argv`, classifies, and prints a table or JSON."""
    args = parser().parse_args(preprocessing.joined(argv))
    wanted = SIGNATURES[args.signature]
    stated = preprocessing.from_options(args)
    if stated and wanted is not IMAGE:
        raise cli.InputError(f"{stated}: pixels are sent with --signature image only")
    model = _open_model(args)
    size = image_size(model.signatures(), wanted, model.source)
    # Only a .keras file may take pixels in another range than 0–255.
    form = stated or getattr(model, "preprocessing", preprocessing.UNCHANGED)
    if form is None:
        raise cli.InputError(
            f"{model.source} does not say how pictures are normalized: give --mean and --std as in "
            "its training, or --input-range 0..255 if the model normalizes them itself"
        )
    found = []
    for start in range(0, len(args.images), BATCH_SIZE):
        paths = args.images[start : start + BATCH_SIZE]
        if wanted is IMAGE:
            pictures = form(np.stack([images.read(path, size) for path in paths]))
        else:
            pictures = [images.read_encoded(path) for path in paths]
        found.append(model.predict(pictures))
    found = Scores(*map(np.concatenate, zip(*found, strict=True)))
    for path, logits, probabilities in zip(args.images, *found, strict=True):
        if not (np.isfinite(logits).all() and np.isfinite(probabilities).all()):
            raise cli.FailedError(
                f"{model.source} returns NaN or infinity for {path}: the model is broken"
            )
    labels = _labels(args.labels, model, classes=found.logits.shape[1])
    predictions = [
        {"image": path, "top": _most_probable(args.top, labels, *row)}
        for path, *row in zip(args.images, *found, strict=True)
    ]
    if args.json:
        answer = {"model": model.source, "signature": args.signature, "predictions": predictions}
        print(json.dumps(answer, indent=2, allow_nan=False))
    else:
        _print_table(predictions, model.source)


def _open_model(args):
    options = {"model": args.model_name, "version": args.model_version, "timeout": args.timeout}
    with cli.needing("train,export"):
        if args.url:
            from export.runtime.rest import RestClient

            return RestClient(args.url, **options)
        if args.grpc:
            from export.runtime.grpc_client import GrpcClient

            return GrpcClient(args.grpc, **options)
        return local_models.open_model(args.model or files.newest_finished())


def _labels(path, model, classes):
    """Returns the names of the classes, `None` for each if they are not known."""
    labels = local_models.read_labels(path) if path else model.labels
    if labels is None:
        return [None] * classes
    if len(labels) != classes:
        raise cli.InputError(
            f"{path or model.source} names {len(labels)} classes, and {model.source} has {classes}:"
            " give the names of this model's classes with --labels"
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
        # By the logits: an int8 model's probabilities have steps of 1/256.
        for i in np.argsort(-logits, kind="stable")[:count]
    ]


def _print_table(predictions, source):
    rows = []
    for prediction in predictions:
        # A file's name need not be valid text.
        name = os.fsencode(prediction["image"]).decode(errors="replace")
        for entry in prediction["top"]:
            label = entry["label"] or f"class {entry['class']}"
            rows.append((name, label, f"{entry['probability']:.2%}"))
            name = ""
        rows.append(None)
    header = ("picture", "class", "probability")
    console.table(header, rows, words=header[:2], title=source)


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = cli.Parser(
        __doc__,
        epilog="Exit status: 0 done, 1 the model returned NaN, 2 bad usage or bad input.",
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help=f"a {', '.join(images.FORMATS)} file of at most {images.MAX_PIXELS // 1_000_000}"
        " megapixels; it is resized to the model's size, not cropped (antialiased, bilinear), and"
        " transparency is put on white",
    )
    model = parser.add_argument_group("model", "By default the newest finished run under runs/.")
    where = model.add_mutually_exclusive_group()
    where.add_argument(
        "--model",
        metavar="PATH",
        help="a run folder, a SavedModel or its base path, an ONNX file, a LiteRT file (.tflite), a"
        " Keras file (.keras)",
    )
    where.add_argument("--url", help="TensorFlow Serving over REST, such as http://localhost:8501")
    where.add_argument(
        "--grpc", metavar="HOST:PORT", help="TensorFlow Serving over gRPC, such as localhost:8500"
    )
    model.add_argument(
        "--signature",
        choices=SIGNATURES,
        default="image",
        help="what is sent: the resized pixels (image), or the PNG or JPEG file (bytes), which the"
        " model decodes and resizes, without regard to EXIF orientation and transparency"
        " (default: %(default)s)",
    )
    model.add_argument(
        "--labels",
        metavar="FILE",
        help="class names, one a line; a server does not have them (default: the model's own)",
    )
    preprocessing.add_options(
        parser.add_argument_group(
            "pixels",
            "What the model takes, if it does not normalize RGB of 0-255 itself. A .keras file in a"
            " run's folder takes what its run's training did.",
        )
    )
    server = parser.add_argument_group("server")
    server.add_argument("--model-name", default="keras_nam", help="(default: %(default)s)")
    server.add_argument(
        "--model-version", metavar="N", type=_count, help="(default: the newest on the server)"
    )
    server.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help=f"without an answer; a call has at most {BATCH_SIZE} pictures (default: %(default)g)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--top", metavar="K", type=_count, default=5, help="classes a picture (default: 5)"
    )
    output.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _count(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def _seconds(text):
    try:
        if 0 < (value := float(text)) <= LONGEST_TIMEOUT:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, at most {LONGEST_TIMEOUT}")


if __name__ == "__main__":
    cli.run(main)
