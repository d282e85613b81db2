"""Writes a web page that classifies pictures and shows the network's gates, as one offline file.

    python export/to_page.py

takes the newest finished run, and writes `page/index.html` into it: float32 beside int8, and
float16 if it was exported. What is not exported yet, float32 and int8, is exported and verified
first; int8 is left out if it is not verified. Exit status: 0 written, 1 float32 is not verified,
2 bad usage or bad input.
"""

import sys
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from export import to_onnx
from training import cli

EXAMPLES = 6


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = cli.Parser(__doc__)
    group = parser.add_argument_group("what is shown", "By default the newest finished run.")
    where = group.add_mutually_exclusive_group()
    where.add_argument("--run", metavar="RUN", help="a finished run's folder")
    where.add_argument(
        "--onnx",
        metavar="FILE",
        help="an ONNX file alone, which export/to_onnx.py wrote; gamma is not known then",
    )
    group.add_argument("--data-dir", help="of a run; as for training/train.py")
    group.add_argument(
        "--examples",
        type=int,
        metavar="N",
        help=f"of the run's test pictures that the page contains (default: {EXAMPLES})",
    )
    made = parser.add_argument_group("what is made")
    made.add_argument(
        "--output",
        metavar="DIR",
        help="folder (default: page/ in the run, or beside the ONNX file)",
    )
    made.add_argument(
        "--runtime",
        metavar="DIR",
        help="the folder dist/ of the npm package onnxruntime-web (default: npm installs it)",
    )
    return parser


def main(argv=None):
    """Parses, exports what is missing, writes the page and prints its path."""
    args = parser().parse_args(argv)
    if args.examples is not None and args.examples < 0:
        raise cli.InputError(f"--examples {args.examples}: expected 0 or more")
    with cli.needing("train,export"):
        from export.targets.page import page, runtime
        from training import console
    runtime.find(args.runtime)  # before anything is computed
    shown = _file(args) if args.onnx else _run(args)
    path = page.write(**shown, runtime_folder=args.runtime)
    console.say(f"page: {path} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser")


def _file(args):
    path = Path(args.onnx)
    if not path.is_file():
        raise cli.InputError(f"--onnx {path}: expected a file that export/to_onnx.py wrote")
    for name in ("examples", "data_dir"):
        if getattr(args, name) is not None:
            raise cli.InputError(
                f"--{name.replace('_', '-')} is for a run: the page of an ONNX file alone has no "
                "pictures of a data set. Leave the option out."
            )
    return {
        "folder": args.output or path.parent / "page",
        "paths": [path],
        "title": path.stem,
    }


def _run(args):
    from export.targets import exporter
    from export.targets.page import page
    from export.verification.source import open_source
    from training import console
    from training.gating.values import named_gates

    source = open_source(args.run, data_dir=args.data_dir)
    folder = source.run.folder
    paths = {
        precision: folder / "onnx" / exporter.file_name(precision, "onnx")
        for precision in to_onnx.PRECISIONS
    }
    data = ["--data-dir", args.data_dir] if args.data_dir else []
    for precision in ("float32", "int8"):
        try:
            if not paths[precision].exists():
                to_onnx.main(["--run", str(folder), "--precision", precision, *data])
        except cli.FailedError as failure:
            if precision == "float32":
                raise
            console.say(f"The page is without {precision}: {failure}")
    gammas = {
        name: abs(gate.gamma.numpy()).tolist()
        for name, gate in named_gates(source.run.model).items()
    }
    return {
        "folder": args.output or folder / "page",
        "paths": [path for path in paths.values() if path.exists()],
        "title": source.run.config["arch"],
        "gammas": gammas,
        "examples": page.examples(source, EXAMPLES if args.examples is None else args.examples),
    }


if __name__ == "__main__":
    cli.run(main)
