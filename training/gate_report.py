"""The report on a run's gates: tables and a verdict for a person, pictures, and all numbers."""

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from keras_nam.attention import ATTENTIONS
from training import data, gate_findings, gate_plots, gate_trials, gate_values, network, runs
from training.cli import InputError
from training.report import load_model

BATCH = 64  # the inputs of all gates of a batch are held at once
TRAINING_IMAGES = 2000  # that the constants are means over
MAPPED_IMAGES = 6


def report(run, images, data_dir, out):
    """Measures and prints, and writes `gates.json`, `gates.png` and `gate_maps.png`.

    Args:
        run: Path of a run folder; the newest finished run if `None`.
        images: Number of test images, the first ones; all if `None`.
        data_dir: Where the data set lies, or `None`.
        out: Folder to write into; `gates/` in the run folder if `None`.

    Returns:
        What `gates.json` holds.

    Raises:
        InputError: If there is no such run, its network has no gate, the set has not so many
            images, or the folder cannot be made.
    """
    folder = Path(run) if run else runs.newest_finished()
    config = runs.read_json(folder / "config.json")
    model = _gated_model(folder, config)
    dataset = data.load(config["dataset"], data_dir, config["validation_split"], config["seed"])
    test = _first(dataset.test, images)
    training = dataset.train.take(slice(TRAINING_IMAGES))
    out = _made(Path(out) if out else folder / "gates")

    measured = _measure(model, test, training, config["recipe_settings"])
    findings = {
        "run": str(folder),
        "arch": config["arch"],
        "images": len(test),
        "constants": f"means over {len(training)} training images",
        "data": dataset.source,
        **measured,
        "environment": runs.environment(),
    }
    findings["verdict"] = gate_findings.verdict(findings)
    _print(findings)
    maps = _maps(model, test.take(slice(MAPPED_IMAGES)), config["recipe_settings"])
    runs.write_atomically(out / "gates.png", lambda path: gate_plots.overview(findings, path))
    runs.write_atomically(out / "gate_maps.png", lambda path: gate_plots.maps(*maps, path))
    runs.write_json(out / "gates.json", findings)
    print(f"written: {out}/gates.json, gates.png, gate_maps.png")
    return findings


def _gated_model(folder, config):
    if not (folder / "best.keras").is_file():
        raise InputError(f"{folder / 'best.keras'} is missing; train the run to its first epoch.")
    model = load_model(folder / "best.keras")
    if not gate_values.gates(model):
        raise InputError(
            f"{folder} is a run of {config['arch']}, which has no NAM gate; expected an arch that "
            f"ends in {', '.join(f'_{name}' for name in ATTENTIONS if 'nam' in name)}."
        )
    return network.with_dtype(model, "float32")


def _first(split, count):
    if count is None:
        return split
    if not 1 <= count <= len(split):
        raise InputError(
            f"--images {count}: expected 1 to {len(split)}, the number of test images."
        )
    return split.take(slice(count))


def _made(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder {folder} cannot be made ({error.strerror}); name another with --out."
        ) from None
    return folder


def _measure(model, test, training, recipe):
    """Returns the findings' numbers: of each layer, and of each trial."""
    stream, training_stream = (
        data.evaluation_stream(split, BATCH, recipe["mean"], recipe["std"])
        for split in (test, training)
    )
    named = gate_values.named_gates(model)
    with Progress(transient=True) as progress:
        task = progress.add_task("the gates", total=2 + gate_trials.steps(named))

        def counted(rows):
            for row in rows:
                progress.advance(task)
                yield row

        seen = gate_values.distributions(model, training_stream)
        progress.advance(task)
        spread = gate_values.distributions(model, stream)
        progress.advance(task)
        trained = gate_trials.Score.of(model, stream)
        trials = gate_trials.Trials(model, stream)
        constants = {name: distribution.unit_means for name, distribution in seen.items()}
        return {
            "layers": [
                gate_findings.layer(name, gate, spread[name]) for name, gate in named.items()
            ],
            "as_trained": {"top1": trained.top1, "loss": trained.loss},
            "replaced": [
                {"by": by, **gate_findings.compared(score, trained)}
                for by, score in counted(gate_trials.replacements(trials, constants))
            ],
            "pruned": [
                gate_findings.pruning(kind, share, scores, trained)
                for kind, share, scores in counted(gate_trials.prunings(trials))
            ],
        }


def _maps(model, split, recipe):
    """Returns images, and name -> the gate's mean over the channels at each position.

    They are those of the spatial gates; of a network without them, those of the channels' gates.
    """
    named = gate_values.named_gates(model)
    kinds = gate_trials.gate_kinds(named)
    images = data.normalize(split.images, recipe["mean"], recipe["std"])
    values = dict(zip(named, gate_values.value_function(model)(images), strict=True))
    return split.images, {
        name: gate_values.over_positions(named[name], values[name])
        for name in kinds.get("positions") or kinds["channels"]
    }


def _print(findings):
    console = Console(highlight=False)
    console.print(
        f"{findings['run']} ({findings['arch']}) on {findings['images']} test images: "
        f"{findings['data']}"
    )
    console.print(*gate_findings.tables(findings["layers"]))
    for line in findings["verdict"]:
        console.print(f"- {line}", soft_wrap=True)
