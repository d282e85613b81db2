"""The benchmark of the input pipeline: what is compared, the report, what is refused."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import input_pipeline
from export.runtime import devices
from export.timing import rounds
from training import recipes
from training.cli import InputError
from training.data import augment, datasets, streams
from training.runs import files

STREAMS = ["paddle", "fast", "none", "keras"]


@pytest.fixture(scope="module")
def split():
    return datasets.load("synthetic").train


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs the command in this process on synthetic images, with short turns; returns its JSON."""
    prepared = []
    monkeypatch.setattr(devices, "prepare_tensorflow", lambda *args: prepared.append(args))
    monkeypatch.setattr(input_pipeline, "DRAWS", 2)
    monkeypatch.setattr(input_pipeline, "LEAST_ROUNDS", 2)
    monkeypatch.setattr(input_pipeline, "TRAINING_IMAGES", 500)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))

    def command(*arguments):
        output = tmp_path / "results"
        small = ["--rounds", "2", "--batch-size", "8", "--output", str(output)]
        input_pipeline.main([*small, *arguments])
        return files.read_json(output / "input_pipeline.json")

    command.prepared = prepared
    return command


def test_the_command_writes_its_report(command, capsys):
    report = command("--threads", "1")
    assert command.prepared == [("CPU", 1)]
    augmentations = {row["contender"]: row["augmentations"] for row in report["results"]}
    assert list(augmentations) == STREAMS
    assert augmentations["paddle"] == list(recipes.PADDLE.augment)
    assert augmentations["none"] == []
    assert augmentations["keras"] == [
        *("RandomTranslation", "RandomBrightness", "RandomContrast", "RandomFlip"),
        "RandomRotation",
    ]
    assert all(row["batch"] == 2 * 8 for row in report["results"])
    assert report["results"][0]["speedup"]["median"] == 1
    settings = {"recipe": "paddle", "batch_size": 8, "threads": 1, "rounds": 2}
    assert settings.items() <= report.items()
    assert "RandomTranslation RandomBrightness" in capsys.readouterr().out


def test_the_page_has_images_per_second_and_the_ratio():
    seconds = np.arange(1, 12) / 10  # the 10th percentile is 0.2, the 90th 1.0
    rows = rounds.summarize({("a", 512): seconds, ("b", 512): seconds / 4}, baseline="a")
    measured = {
        **{"baseline": "a", "batch_size": 256, "threads": 2, "command": "python some.py"},
        "environment": files.environment(["numpy"]),
        "results": [{**row, "augmentations": ["crop"] * number} for number, row in enumerate(rows)],
    }
    page = "\n".join(input_pipeline.page(measured))
    assert "| a | – | ~853 (512–2,560) | 1.00 (1.00–1.00) |" in page
    assert "| b | crop | ~3,413 (2,048–10,240) | 4.00 (4.00–4.00) |" in page
    assert "~ noisy" in page


def test_each_round_starts_a_new_iteration(command, monkeypatch):
    drawn = []

    def recorded():
        for number in range(10**6):
            drawn.append(number)
            yield number

    class Endless:
        def __iter__(self):
            return recorded()

    endless = ({"paddle": []}, {"paddle": Endless()})
    monkeypatch.setattr(input_pipeline, "open_streams", lambda *args: endless)
    monkeypatch.setattr(input_pipeline, "check_alike", lambda streams: None)
    command("--rounds", "10")
    # Two batches in an untimed turn and two in a timed one, in each of 10 rounds.
    assert drawn[-9 * 4 :] == 9 * [0, 1, 2, 3]


@pytest.mark.slow
def test_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "prepare_tensorflow", lambda *args: None)
    monkeypatch.setattr(input_pipeline, "LEAST_ROUNDS", 2)
    monkeypatch.setattr(input_pipeline, "PICTURES", 40)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    output = tmp_path / "results"
    input_pipeline.main(
        ["--pictures", "--batch-size", "8", "--rounds", "2", "--output", str(output)]
    )
    report = files.read_json(output / "input_pipeline_pictures.json")
    assert [row["contender"] for row in report["results"]] == ["ours", "keras"]


def test_streams_are_alike_and_augmented(split):
    small = recipes.get("paddle", batch_size=64)
    _, opened = input_pipeline.open_streams(split, "paddle", small)
    input_pipeline.check_alike(opened)
    first = {name: next(iter(stream))[0].numpy() for name, stream in opened.items()}
    for name in ("paddle", "fast", "keras"):
        changed = (first[name] != first["none"]).any((1, 2, 3))
        assert changed.mean() > 0.9, name


def test_different_streams_are_refused(split):
    plain = streams.training_stream(split, 16, (0, 0, 0), (1, 1, 1))
    changes = {
        "shape": lambda images, labels: (images[:, :16], labels),
        "dtype": lambda images, labels: (tf.cast(images, tf.float16), labels),
        "labels": lambda images, labels: (images, labels[::-1]),
        "finite": lambda images, labels: (images / 0, labels),
    }
    for what, change in changes.items():
        with pytest.raises(InputError, match=f"one and two: .*{what}"):
            input_pipeline.check_alike({"one": plain, "two": plain.map(change)})


def test_each_augmentation_has_a_stock_layer_that_is_similar(split):
    images = split.images[:500].astype(np.float32)
    own_functions = dict(augment.AUGMENTATIONS)
    del own_functions["random_resized_crop"]  # --pictures has its counterpart
    for name, own in own_functions.items():
        (layer,) = input_pipeline.stock_layers([name])
        changes = [
            np.abs(changed - images).mean()
            for changed in (own(images, [1, 2]).numpy(), layer(images, training=True).numpy())
        ]
        # Stock brightness adds to every image what ours multiplies half of them by: 4.5 times.
        assert changes[0] / 1.5 < changes[1] < changes[0] * (6 if "bright" in name else 1.5), name
    crop, brightness = input_pipeline.stock_layers(
        ["random_crop:mode=reflect,padding=8", "random_brightness:amount=0.3"]
    )
    assert crop.get_config()["fill_mode"] == "reflect"
    assert crop.get_config()["height_factor"] == crop.get_config()["width_factor"] == 0.25
    assert brightness.get_config()["factor"] in (0.3, [-0.3, 0.3], (-0.3, 0.3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "1"], "--rounds 1: expected 2"),
        (["--recipe", "padle"], "Did you mean 'paddle'"),
        (["--batch-size", "501"], "--batch-size 501: expected 1 to 500"),
    ],
)
def test_bad_input_writes_nothing(command, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        command(*arguments)
    assert not list(tmp_path.rglob("*.json"))
