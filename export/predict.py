"""Classifies pictures: by a run's SavedModel, an ONNX, LiteRT or Keras file, or a server."""

import argparse
import csv
import json
import os
import sys
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from export.runtime import classification, local_models, preprocessing
from export.runtime.single_output import SCORES
from training import cli, console
from training.data import pictures
from training.runs import files

LONGEST_TIMEOUT = 86_400
COLUMNS = ("image", "rank", "class", "label", "probability", "logit", "error")


def main(argv=None):
    """Parses the command line `argv`, classifies, and prints a table or JSON, or writes CSV."""
    args = parser().parse_args(preprocessing.joined(argv))
    if args.csv and not Path(args.csv).absolute().parent.is_dir():
        raise cli.InputError(f"--csv {args.csv}: its folder does not exist; create it first")
    paths = pictures.find(args.images, args.recursive)
    is_local = not (args.url or args.grpc)
    with cli.needing("train,export"):
        model = classification.open_any(
            (args.model or files.newest_finished()) if is_local else None,
            args.url,
            args.grpc,
            args.model_name,
            args.model_version,
            args.timeout,
        )
    classifier = classification.Classifier(
        model,
        local_models.read_labels(args.labels) if args.labels else None,
        preprocessing.from_options(args),
        args.crop_fraction,
        args.preprocessing,
        args.signature,
        args.scores,
    )
    if paths == args.images and len(paths) == 1:  # nothing else to do: a bad one is bad input
        classifier.read(paths[0])
    with console.progress("classifying", len(paths)) as advance:
        found = classifier.predictions(paths, args.top, advance)
        if args.csv:
            bad = _write_csv(args.csv, found)
        else:
            found = list(found)
            bad = sum("error" in prediction for prediction in found)
    if args.csv:
        console.say(f"{args.csv}: {len(paths)} pictures, {bad} of them with an error")
    elif args.json:
        answer = {"model": model.source, "signature": args.signature, "predictions": found}
        print(json.dumps(answer, indent=2, allow_nan=False))
    else:
        _print_table(found, model.source)
    if bad:
        raise cli.FailedError(f"{bad} of {len(paths)} pictures were not classified")


def _write_csv(path, predictions):
    """Writes a row for each class of each picture; returns the number of pictures with an error."""
    bad = 0

    def write(temporary):
        nonlocal bad
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            for prediction in predictions:
                name = _text(prediction["image"])
                if error := prediction.get("error"):
                    bad += 1
                    writer.writerow({"image": name, "error": error})
                    continue
                for rank, entry in enumerate(prediction["top"], 1):
                    writer.writerow({"image": name, "rank": rank, **entry})

    files.write_atomically(path, write)
    return bad


def _text(path):
    """Returns a path as text, which a file's name need not be."""
    return os.fsencode(path).decode(errors="replace")


def _print_table(predictions, source):
    rows = []
    for prediction in predictions:
        name = _text(prediction["image"])
        if "error" in prediction:
            rows.append((name, prediction["error"], ""))
        for entry in prediction.get("top", ()):
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
        epilog="Exit status: 0 done, 1 some pictures could not be read, or the model returned NaN,"
        " 2 bad usage or bad input.",
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="PICTURE",
        help=f"a file ({', '.join(pictures.FORMATS)}, of at most"
        f" {pictures.MAX_PIXELS // 1_000_000} megapixels), a folder, or a pattern such as"
        " 'photos/*.jpg'",
    )
    parser.add_argument(
        "--recursive", action="store_true", help="search the folders in a folder, too"
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
        choices=classification.SIGNATURES,
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
    model.add_argument(
        "--scores",
        choices=SCORES,
        help="what a Keras file, or an ONNX file with one output, returns (default: found out by"
        " its last activation or by the numbers)",
    )
    pixels = parser.add_argument_group(
        "pixels",
        "Pictures are resized and cropped as in the training, which a run's own models state. Other"
        " models and servers get the whole picture, resized, unless you state more. The range is"
        " for a model that does not normalize RGB of 0-255 itself.",
    )
    rule = pixels.add_mutually_exclusive_group()
    rule.add_argument(
        "--crop-fraction",
        metavar="F",
        type=cli.number_up_to(1),
        help="resize with the aspect ratio kept, and keep the centre, this share of it",
    )
    rule.add_argument(
        "--preprocessing", metavar="FILE", help="the preprocessing.json of an exported model"
    )
    preprocessing.add_options(pixels)
    server = parser.add_argument_group("server")
    server.add_argument("--model-name", default="keras_nam", help="(default: %(default)s)")
    server.add_argument(
        "--model-version", metavar="N", type=_count, help="(default: the newest on the server)"
    )
    server.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=cli.number_up_to(LONGEST_TIMEOUT),
        default=10.0,
        help="without an answer; a call has at most "
        f"{classification.BATCH_SIZE} pictures (default: %(default)g)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--top", metavar="K", type=_count, default=5, help="classes a picture (default: 5)"
    )
    form = output.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON instead of a table")
    form.add_argument(
        "--csv", metavar="FILE", help="write a row for each class of each picture instead"
    )
    return parser


def _count(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


if __name__ == "__main__":
    cli.run(main)
