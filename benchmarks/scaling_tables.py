"""The report of scaling for a person: tables in Markdown."""

from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks.scaling_model import DEVICES, IMAGES
from export import timing

NAMES = {
    "one": "one process, one core",
    "apart": "two processes apart, at the same time",
    "weak": "two together, the same batch for each (weak)",
    "quiet": "weak, gloo's thread only where no other runs",
    "strong": "two together, the same batch in all (strong)",
}


def show(report, console):
    """Prints a report as tables in Markdown; a number that is not exact has a ~ before it."""

    def say(line):
        console.print(Text(line), soft_wrap=True)

    say(f"Scaling: {title(report)}\n")
    say(f"`{report['command']}`\n")
    console.print(_speeds(report))
    rows = [row[key] for row in report["results"] for key in ("images_per_second", "efficiency")]
    for line in timing.noise_note(rows, report["noisy_above"]):
        say(line)
    say("\nWhere a step of two processes goes, the same batch for each\n")
    console.print(_step(report))
    say(f"\n{exchanged(report)}\n")
    say(f"{fed(report)}\n")
    say(f"Computed, not measured: {assumptions(report)}\n")
    console.print(_model(report))
    say(
        "\nA pair is without overlap – with full overlap of compute and all-reduce. "
        f"Half used: the devices up to which the efficiency is 50% or more. Strong: "
        f"{report['assumed']['strong_batch']} images over all devices; –: less than one for each.\n"
    )
    console.print(_limits(report))


def title(report):
    """Returns what the numbers were taken on, a line."""
    versions = report["environment"]["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return (
        f"{report['arch']}, {report['batch_size']} images for each process, float32, "
        f"{report['rounds']} rounds of {report['steps']} steps; "
        f"{report['environment']['machine']}; {named}"
    )


def exchanged(report):
    """Returns what a step exchanges, a line."""
    traffic, one = report["traffic"], report["gradients"]
    sizes = [size for arrays in traffic["all_reduces"] for size in arrays]
    gradients = 4 * traffic["parameters"]
    return (
        f"A step has {len(traffic['all_reduces'])} all-reduces of {len(sizes)} arrays, "
        f"{sum(sizes) / 1e3:,.1f} kB: {gradients / 1e3:,.1f} kB of gradients "
        f"({traffic['parameters']:,} trainable parameters × 4) and "
        f"{(sum(sizes) - gradients) / 1e3:,.1f} kB of what the {traffic['normalizations']} "
        "normalizations and the metrics sum over the whole batch. The gradients in one array take "
        f"{one['median']:,.1f} ms ({one['p10']:,.1f}–{one['p90']:,.1f}), {one['share']:.1%} of "
        "a step."
    )


def fed(report):
    """Returns what the input pipeline does, a line."""
    speed = report["stream"]["images_per_second"]
    return (
        f"The input pipeline gives {timing.mark(speed)}{speed['median']:,.0f} images/s on one core "
        f"({speed['p10']:,.0f}–{speed['p90']:,.0f}), which is {report['stream']['share']:.1%} of a "
        "step."
    )


def assumptions(report):
    """Returns what the model assumes, a line."""
    assumed = report["assumed"]
    networks = "; ".join(
        f"{network['name']}: {network['bandwidth'] / 1e9:g} GB/s, {1e6 * network['latency']:g} µs "
        f"({network['source']})"
        for network in assumed["networks"]
    )
    return (
        "a step takes its compute, measured on this CPU or of a GPU that is assumed to reach "
        f"{assumed['gpu_tflops']:g} TFLOP/s whatever the batch (none was measured), and a ring "
        f"all-reduce. {networks}."
    )


def table(*columns, words=1):
    """Returns an empty table whose first columns are of words, the others of numbers."""
    made = Table(box=box.MARKDOWN)
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number < words else "right", no_wrap=True)
    return made


def _speeds(report):
    made = table("training", "images/s", "p10", "p90", "efficiency", "p10", "p90")
    for row in report["results"]:
        speed, part = row["images_per_second"], row["efficiency"]
        made.add_row(
            NAMES[row["contender"]],
            f"{timing.mark(speed)}{speed['median']:,.1f}",
            *(f"{speed[key]:,.1f}" for key in ("p10", "p90")),
            f"{timing.mark(part)}{part['median']:.1%}",
            *(f"{part[key]:.1%}" for key in ("p10", "p90")),
        )
    return made


def _step(report):
    columns = ("ms", "p10", "p90", "share")
    made = table("part", *columns, *(f"gloo quiet: {name}" for name in columns))
    for pair in zip(*report["step"].values(), strict=True):
        cells = []
        for row in pair:
            cells += [f"{row[key]:,.1f}" for key in ("median", "p10", "p90")]
            cells.append(f"{row['share']:.1%}")
        made.add_row(pair[0]["part"], *cells)
    return made


def _model(report):
    names = [f"{devices} devices" for devices in DEVICES]
    made = table("training", "normalized by", "network", "scaling", *names, "half used", words=4)
    for row in report["model"]:
        made.add_row(
            row["training"],
            "the whole batch" if row["waits"] else "each part",
            row["network"],
            row["scaling"],
            *(_pair(row["efficiency"][str(devices)]) for devices in DEVICES),
            _counts(row["half_up_to"]),
        )
    return made


def _pair(efficiencies):
    if efficiencies is None:
        return "–"
    low, high = (f"{share:.0%}" for share in efficiencies)
    return low if low == high else f"{low} – {high}"


def _counts(bounds):
    low, high = ("no end" if count is None else f"{count:,}" for count in bounds)
    return low if low == high else f"{low} – {high}"


def _limits(report):
    made = table(
        "devices (weak)",
        "batch",
        f"steps an epoch of {IMAGES:,}",
        f"speed-up at most, critical batch {report['assumed']['critical_batch']:,.0f}",
    )
    for row in report["batch_limits"]:
        cells = (f"{row[key]:,}" for key in ("devices", "batch", "steps_an_epoch"))
        made.add_row(*cells, f"{row['speedup']:.1f}")
    return made
