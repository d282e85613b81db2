"""The benchmark of the input pipeline from its streams to its report: a table, a JSON file."""

from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from benchmarks.input_streams import check_alike, open_streams, training_images
from export import timing
from export.devices import prepare_tensorflow
from training import runs

PACKAGES = ("tensorflow", "keras", "numpy")
DRAWS = 20  # batches a turn
NOTE = "keras has the nearest layers of stock Keras: similar to the recipe's, not equal"


def benchmark(args, recipe):
    """Measures, prints and writes, as the command line of `input_pipeline` says."""
    prepare_tensorflow("CPU", args.threads)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    split, source = training_images()
    streams = open_streams(split, args.recipe, recipe)
    check_alike(streams)
    console = Console(highlight=False)
    seconds = _measure(streams, recipe.batch_size, args.rounds, console)
    results = [
        {**_result(row), "augmentations": list(streams[row["model"]].augmentations)}
        for row in timing.summarize(seconds, baseline=args.recipe)
    ]
    report = {
        "recipe": args.recipe,
        "batch_size": recipe.batch_size,
        "batches_a_turn": DRAWS,
        "threads": args.threads,
        "rounds": args.rounds,
        "warm_up": timing.WARM_UP,
        "noisy_above": timing.NOISY,
        "data": source,
        "note": NOTE,
        "results": results,
        "environment": runs.environment(PACKAGES),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path = folder / "input_pipeline.json"
    runs.write_json(path, report)
    show(report, console)
    console.print(Text(f"written: {path}"), soft_wrap=True)


def _measure(streams, batch_size, rounds, console):
    """Returns the seconds of each turn, as `timing.measure` does."""
    with Progress(console=console, auto_refresh=False, transient=True) as progress:
        bar = progress.add_task("measuring", total=rounds)

        def advance():
            progress.update(bar, advance=1, refresh=True)
            for stream in streams.values():
                stream.restart()

        return timing.measure(
            {name: stream.draw for name, stream in streams.items()},
            {DRAWS * batch_size: DRAWS},
            rounds,
            advance=advance,
        )


def _result(row):
    """Returns images a second, and their ratio to the recipe's of the same round."""
    times = row["milliseconds"]
    speeds = {
        key: round(1e3 * row["batch"] / times[other])
        for key, other in (("median", "median"), ("p10", "p90"), ("p90", "p10"))
    }
    speeds |= {"spread": times["spread"], "noisy": times["noisy"]}
    return {"stream": row["model"], "images_per_second": speeds, "ratio": row["speedup"]}


def show(report, console):
    """Prints a report as a table; a number that is not exact has a ~ before it."""
    environment = report["environment"]
    versions = ", ".join(f"{name} {environment['versions'][name]}" for name in PACKAGES)
    title = (
        f"batches of {report['batch_size']}, {report['threads']} threads, "
        f"{report['rounds']} rounds; {environment['machine']}; {versions}"
    )
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stream", no_wrap=True)
    for column in ("images/s", "p10", "p90", f"× {report['recipe']}"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("augmentations")
    for row in report["results"]:
        speeds, ratio = row["images_per_second"], row["ratio"]
        table.add_row(
            row["stream"],
            f"{timing.mark(speeds)}{speeds['median']:,}",
            *(f"{speeds[key]:,}" for key in ("p10", "p90")),
            f"{timing.mark(ratio)}{ratio['median']:.2f}",
            " ".join(row["augmentations"]) or "–",
        )
    console.print(table)
    console.print(Text(report["note"]), soft_wrap=True)
    numbers = [row[key] for row in report["results"] for key in ("images_per_second", "ratio")]
    for line in timing.noise_note(numbers, report["noisy_above"]):
        console.print(Text(line), soft_wrap=True)
