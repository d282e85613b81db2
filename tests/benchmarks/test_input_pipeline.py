"""The benchmark of the input pipeline: what is compared, the report, what is refused."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from benchmarks import input_pipeline, input_pipeline_report, input_streams
from export import timing
from training import augment, data, recipes, runs
from training.cli import InputError

ROOT = Path(__file__).parents[2]
STREAMS = ["paddle", "fast", "none", "keras"]


@pytest.fixture(scope="module")
def split():
    return data.load("synthetic").train


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs the command here, where TensorFlow runs already, with small turns; returns its JSON."""
    prepared = []
    monkeypatch.setattr(
        input_pipeline_report, "prepare_tensorflow", lambda *args: prepared.append(args)
    )
    monkeypatch.setattr(input_pipeline_report, "DRAWS", 2)
    monkeypatch.setattr(input_streams, "TRAINING_IMAGES", 500)

    def command(*arguments):
        output = tmp_path / "new" / "results"
        small = ["--rounds", "10", "--batch-size", "8", "--output", str(output)]
        input_pipeline.main([*small, *arguments])
        assert [path.name for path in output.iterdir()] == ["input_pipeline.json"]
        return runs.read_json(output / "input_pipeline.json")

    command.prepared = prepared
    return command


def start(*arguments, **environment):
    """Runs the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "benchmarks/input_pipeline.py", *arguments],
        cwd=ROOT,
        env={"PATH": "", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


def test_the_command_leaves_its_report(command, capsys):
    report = command("--threads", "1")
    assert command.prepared == [("CPU", 1)]
    assert [row["stream"] for row in report["results"]] == STREAMS
    assert [row["augmentations"] for row in report["results"]] == [
        list(recipes.PADDLE.augment),
        list(recipes.FAST.augment),
        [],
        [
            "RandomTranslation",
            "RandomBrightness",
            "RandomContrast",
            "RandomFlip",
            "RandomRotation",
        ],
    ]
    for row in report["results"]:
        speed = row["images_per_second"]
        assert 0 < speed["p10"] <= speed["median"] <= speed["p90"]
    assert report["results"][0]["ratio"]["median"] == 1
    assert "not equal" in report["note"]
    settings = {"recipe": "paddle", "batch_size": 8, "threads": 1, "rounds": 10}
    assert settings.items() <= report.items()
    assert set(report["environment"]["versions"]) == {"python", "tensorflow", "keras", "numpy"}
    printed = capsys.readouterr().out
    assert report["note"] in printed
    assert "input_pipeline.json" in printed


def test_another_recipe_is_the_baseline(command):
    report = command("--recipe", "fast")
    assert [row["stream"] for row in report["results"]] == ["fast", "none", "keras"]
    assert report["results"][0]["ratio"]["median"] == 1


def test_images_a_second_and_the_ratio():
    seconds = np.arange(1, 12) / 10
    rows = timing.summarize({("a", 512): seconds, ("b", 512): seconds / 4}, baseline="a")
    a, b = map(input_pipeline_report._result, rows)
    # The 10th percentile of the seconds is 0.2, the 90th 1.0.
    expected = {"median": 853, "p10": 512, "p90": 2560}
    assert expected.items() <= a["images_per_second"].items()
    assert a["images_per_second"]["noisy"]
    assert b["stream"] == "b"
    assert (b["ratio"]["median"], b["ratio"]["noisy"]) == (4, False)


def test_the_table_marks_what_is_noisy():
    rows = [
        {
            "stream": name,
            "augmentations": [],
            "images_per_second": {"median": 54321, "p10": 5, "p90": 9, "noisy": False},
            "ratio": {"median": 2.5, "noisy": False},
        }
        for name in STREAMS
    ]
    report = {
        "recipe": "paddle",
        "batch_size": 256,
        "threads": 2,
        "rounds": 30,
        "noisy_above": 0.1,
        "note": input_pipeline_report.NOTE,
        "results": rows,
        "environment": runs.environment(input_pipeline_report.PACKAGES),
    }

    def shown():
        console = Console(file=io.StringIO(), width=200)
        input_pipeline_report.show(report, console)
        return console.file.getvalue()

    assert shown().count("54,321") == len(STREAMS)
    assert shown().count("2.50") == len(STREAMS)
    assert "~" not in shown()
    rows[1]["images_per_second"]["noisy"] = True
    rows[3]["ratio"]["noisy"] = True
    assert shown().count("~54,321") == 1
    assert shown().count("~2.50") == 1
    assert "more than 10% of the median apart" in shown()


def test_each_turn_draws_the_batches_and_each_round_starts_anew(monkeypatch):
    monkeypatch.setattr(timing, "WARM_UP", 0)
    drawn = []

    class Recorded(input_streams.Stream):
        def draw(self, count):
            drawn.extend(int(next(self._iterator)) for _ in range(count))

    console = Console(file=io.StringIO())
    streams = {"numbers": Recorded((), tf.data.Dataset.range(10**6))}
    seconds = input_pipeline_report._measure(streams, 256, 2, console)
    draws = input_pipeline_report.DRAWS
    assert drawn == 2 * list(range(2 * draws))  # in a round: an untimed turn and a timed one
    assert {key: len(times) for key, times in seconds.items()} == {("numbers", draws * 256): 2}


def test_streams_are_alike_and_augmented(split):
    streams = input_streams.open_streams(split, "paddle", recipes.PADDLE)
    assert list(streams) == STREAMS
    input_streams.check_alike(streams)
    first = {name: next(iter(stream.batches))[0].numpy() for name, stream in streams.items()}
    for name in ("paddle", "fast", "keras"):
        changed = (first[name] != first["none"]).any((1, 2, 3))
        assert changed.mean() > 0.9, name


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("shape", lambda images, labels: (images[:, :16], labels)),
        ("type", lambda images, labels: (tf.cast(images, tf.float16), labels)),
        ("images", lambda images, labels: (images, labels[::-1])),
        ("finite", lambda images, labels: (images / 0, labels)),
    ],
)
def test_unlike_streams_are_refused(split, what, change):
    plain = data.training_stream(split, 16, (0, 0, 0), (1, 1, 1))
    streams = {
        name: input_streams.Stream((), batches)
        for name, batches in {"one": plain, "two": plain, "three": plain.map(change)}.items()
    }
    with pytest.raises(InputError, match=f"three .*{what}"):
        input_streams.check_alike(streams)


def test_each_augmentation_has_a_stock_layer_that_is_similar(split):
    assert set(input_streams.STOCK) == set(augment.AUGMENTATIONS)
    images = split.images[:500].astype(np.float32)
    for name, own in augment.AUGMENTATIONS.items():
        (layer,) = input_streams.stock_layers([name])
        changes = [
            np.abs(changed - images).mean()
            for changed in (own(images, [1, 2]).numpy(), layer(images, training=True).numpy())
        ]
        # Stock brightness adds to every image what ours multiplies half of them by: 4.5 times.
        assert changes[0] / 1.5 < changes[1] < changes[0] * (6 if "bright" in name else 1.5), name


def test_the_options_of_a_recipe_reach_the_stock_layers():
    crop, brightness = input_streams.stock_layers(
        ["random_crop:mode=reflect,padding=8", "random_brightness:amount=0.3"]
    )
    assert crop.get_config()["fill_mode"] == "reflect"
    assert crop.get_config()["height_factor"] == crop.get_config()["width_factor"] == 0.25
    assert brightness.get_config()["factor"] in (0.3, [-0.3, 0.3], (-0.3, 0.3))


def test_an_augmentation_without_a_stock_layer_is_refused(monkeypatch):
    monkeypatch.delitem(input_streams.STOCK, "random_flip")
    with pytest.raises(InputError, match="augmentation of stock Keras 'random_flip'"):
        input_streams.stock_layers(["random_flip"])


def test_without_cifar_there_are_as_many_other_images(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    images, source = input_streams.training_images()
    assert images.images.shape == (50_000, 32, 32, 3)
    assert "synthetic" in source
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "9"], "--rounds 9: expected 10 or more"),
        (["--threads", "0"], "--threads 0: expected 1 or more"),
        (["--recipe", "padle"], "Did you mean 'paddle'"),
        (["--batch-size", "0"], "--batch-size 0: expected a number above 0"),
        (["--batch-size", "501"], "--batch-size 501: expected 1 to 500"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(command, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        command(*arguments)
    assert not list(tmp_path.rglob("*.json"))


def test_the_process_refuses_without_a_traceback():
    process = start("--rounds", "1")
    assert (process.returncode, process.stderr) == (2, "error: --rounds 1: expected 10 or more\n")


@pytest.mark.slow
def test_the_process_measures(tmp_path):
    short = ["--rounds", "10", "--batch-size", "32", "--threads", "1", "--output", str(tmp_path)]
    process = start(*short, TFDS_DATA_DIR=str(tmp_path))
    assert process.returncode == 0, process.stderr
    report = runs.read_json(tmp_path / "input_pipeline.json")
    assert [row["stream"] for row in report["results"]] == STREAMS
