"""The reports on a run's gates: their numbers, and what they do to pictures."""

from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

import keras_nam
from keras_nam.gates import gates_of
from training import console, jobs
from training.cli import InputError
from training.data import datasets, pictures, streams
from training.fitting import network
from training.gating import plots, trials
from training.gating import values as gate_values
from training.runs import files
from training.runs.report import load_model

BATCH = 64  # the inputs of all gates of a batch are held at once
TRAINING_IMAGES = 2000  # that the constants are means over
SHOWN_IMAGES = 6
MOST_PICTURES = 12
# The columns of the printed table: the key of a layer in gates.json, and the format.
COLUMNS = {
    "mean": ("gate", "mean", ".4f"),
    "std between channels": ("gate", "std_between_units", ".1e"),
    "std within a channel": ("gate", "std_within_units", ".1e"),
    "min": ("gate", "min", ".3f"),
    "max": ("gate", "max", ".3f"),
    f"within 0.5 ± {gate_values.NEAR}": ("gate", "share_near_half", ".1%"),
    "γ": ("gamma", "count", "d"),
    "max |γ| / mean |γ|": ("gamma", "max_over_mean", ".2f"),
    "|γ| < max / 1000": ("gamma", "negligible", "d"),
}


def report(args):
    """Measures and prints, and writes `gates.json`, `gates.png` and `gate_maps.png`.

    Args:
        args: Parsed options of `gates.py`.

    Raises:
        InputError: If the run has no gate, or an option does not fit.
    """
    run = _Run.of(args)
    job, model = run.job, run.model
    dataset = run.dataset(args.data_dir)
    most = len(dataset.test)
    if args.images is not None and not 1 <= args.images <= most:
        raise InputError(f"--images {args.images}: expected 1 to {most}, the test images.")
    test = dataset.test.take(slice(args.images))
    training = dataset.train.take(slice(TRAINING_IMAGES))
    out = run.create_out()
    findings = {
        "run": str(run.folder),
        "arch": job.arch,
        "images": len(test),
        "constants": f"means over {len(training)} training images",
        "data": dataset.source,
        **_measure(model, test, training, job.recipe),
        "environment": files.environment(),
    }
    findings["verdict"] = verdict(findings)
    console.say(f"{run.folder} ({job.arch}): {dataset.source}")
    rows = []
    for row in findings["layers"]:
        numbers = [format(row[part][key], form) for part, key, form in COLUMNS.values()]
        rows.append([gate_values.display_name(row["name"]), *numbers])
    console.table(("gate", *COLUMNS), rows)
    for line in findings["verdict"]:
        console.say(f"- {line}")
    shown = test.take(slice(SHOWN_IMAGES))
    captions = [dataset.class_names[label] for label in shown.labels]
    files.write_atomically(out / "gates.png", lambda path: plots.overview(findings, path))
    run.draw(np.stack(list(shown.images)), captions, out / "gate_maps.png")
    files.write_json(out / "gates.json", findings)
    console.say(f"written: {out}/gates.json, gates.png, gate_maps.png")


def show(args):
    """Draws what each gate does to the pictures `args.pictures`, into `pictures.png`.

    Args:
        args: Parsed options of `gates.py`.

    Raises:
        InputError: If the run has no gate, or a picture cannot be read.
    """
    paths = pictures.find(args.pictures, recursive=True)
    if len(paths) > MOST_PICTURES:
        raise InputError(
            f"--pictures: {len(paths)} pictures, expected at most {MOST_PICTURES}. Name fewer."
        )
    run = _Run.of(args)
    resize = pictures.Resize(*run.model.input_shape[1:3], run.job.crop_fraction)
    images = np.stack([pictures.read(path, resize) for path in paths])
    out = run.create_out()
    run.draw(images, [Path(path).name for path in paths], out / "pictures.png")
    console.say(f"written: {out}/pictures.png")


class _Run(NamedTuple):
    """A run whose model has gates; its model in float32."""

    folder: Path
    out: Path
    job: jobs.Job
    config: dict
    model: keras.Model

    @classmethod
    def of(cls, args):
        folder = Path(args.run) if args.run else files.newest_finished()
        config = files.read_json(folder / "config.json")
        job = jobs.Job.from_config(config, folder)
        if not (folder / "best.keras").is_file():
            raise InputError(
                f"{folder / 'best.keras'} is missing; train the run to its first epoch."
            )
        model = load_model(folder / "best.keras")
        if not gates_of(model):
            raise InputError(f"{folder} is a run of {job.arch}: expected an arch with a NAM gate.")
        out = Path(args.out) if args.out else folder / "gates"
        return cls(folder, out, job, config, network.with_dtype(model, "float32"))

    def dataset(self, data_dir):
        """Returns the run's data set, and says its warnings."""
        where = {"data_dir": data_dir, "cache": self.job.cache}
        classes = self.model.output_shape[-1]
        dataset = datasets.of_run(self.folder, self.job, self.config, classes, **where)
        for warning in dataset.warnings:
            console.say(f"warning: {warning}")
        return dataset

    def create_out(self):
        """Creates and returns the output folder."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"The folder {self.out} cannot be created ({error.strerror}). Try another --out."
            ) from None
        return self.out

    def draw(self, images, captions, path):
        """Draws the gates of images [N, H, W, 3], uint8, with the prediction for each."""
        normalized = streams.normalize(images, self.job.recipe.mean, self.job.recipe.std)
        probabilities = keras.ops.softmax(self.model(normalized, training=False)).numpy()
        names = self.config.get("class_names")
        for number, (scores, caption) in enumerate(zip(probabilities, captions, strict=True)):
            label = scores.argmax()
            name = names[label] if names else f"class {label}"
            captions[number] = f"{caption}\npredicted: {name}, {scores[label]:.0%}"
        paths = {gate.path: name for name, gate in gate_values.named_gates(self.model).items()}
        found = keras_nam.gate_values(self.model, normalized)
        named = {paths[path]: values for path, values in found.items()}
        files.write_atomically(
            path, lambda path: plots.gates_on_images(images, captions, named, path)
        )


def _measure(model, test, training, recipe):
    """Returns the numbers of each layer and of each trial."""
    how = (BATCH, recipe.mean, recipe.std)
    stream = streams.evaluation_stream(test, *how)
    constants = gate_values.distributions(model, streams.evaluation_stream(training, *how))
    found = gate_values.distributions(model, stream)
    trained = trials.Score.of(model, stream)
    named = gate_values.named_gates(model)
    means = {name: distribution.unit_means for name, distribution in constants.items()}
    count = 3 + len(trials.SHARES) * (2 + trials.DRAWS)
    with console.progress("trials of the gates", count) as advance:
        return {
            "layers": [
                {
                    "name": name,
                    "units": gate_values.units(gate),
                    "gate": found[name].numbers,
                    "gamma": spectrum(np.array(gate.gamma), np.array(gate.gate_weights)),
                }
                for name, gate in named.items()
            ],
            "as_trained": {
                "top1": trained.top1,
                "loss": trained.loss,
                "parameters": model.count_params(),
            },
            "replaced": trials.replacements(model, means, stream, trained, advance),
            "slimmed": trials.slimmings(model, stream, trained, advance),
        }


def spectrum(gamma, weights):
    """Returns the sizes of a layer's gammas [units] and its gate weights, the largest first."""
    sizes = np.sort(np.abs(gamma.astype("float64")))[::-1]
    total = sizes.sum() or 1.0  # where every gamma is 0, each share of the sum is 0
    return {
        "count": sizes.size,
        "max_over_mean": float(sizes[0] * sizes.size / total),
        "share_of_top_tenth": float(sizes[: -(-sizes.size // 10)].sum() / total),
        "negligible": int((sizes < sizes[0] / 1000).sum()),
        "sorted_sizes": sizes.tolist(),
        "sorted_weights": np.sort(weights)[::-1].tolist(),
    }


def verdict(findings):
    """Returns the results of the trials, in lines of text."""
    trained = findings["as_trained"]
    lines = [
        f"As trained: top-1 {trained['top1']:.2%}, loss {trained['loss']:.4f}, on "
        f"{findings['images']} test images."
    ]
    for row in findings["replaced"]:
        by = row["by"].replace("unit", "channel")
        lines.append(f"Gates replaced by {by}: top-1 {row['top1']:.2%}, {_change(row)}.")
    for row in findings["slimmed"]:
        tops = [f"{name} {row[order]['top1']:.2%}" for order, name in plots.ORDERS.items()]
        removed = 1 - row["parameters"] / trained["parameters"]
        against = [_change(row[f"gamma_against_{other}"]) for other in ("random", "l1")]
        lines.append(
            f"{row['share']:.0%} of the channels between convolutions removed ({removed:.0%} of "
            f"the parameters): top-1 {', '.join(tops)}. |γ| against random: {against[0]}; against "
            f"L1: {against[1]}."
        )
    return lines


def _change(row):
    low, high = row["top1_change_95"]
    note = "" if low > 0 or high < 0 else ", not significant"
    change = f"{100 * row['top1_change']:+.2f} points"
    return f"{change} (95% CI {100 * low:+.2f} to {100 * high:+.2f}{note})"
