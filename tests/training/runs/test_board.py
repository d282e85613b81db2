"""TensorBoard of a run: what is written, at which step, in which order, and with which words."""

import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from tests.support import events
from tests.support.networks import small_network
from tests.support.small_run import run
from training.fitting import network
from training.runs import files

OPTIONS = ["--epochs", "4", "--progressive-sizes", "16", "32"]  # two calls of Keras' `fit`


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "initial_model", small_network.initial_model)
        run(folder, *OPTIONS)
    return folder


@pytest.fixture(scope="module")
def written(finished):
    return {
        name: events.read(finished / "tensorboard" / name) for name in ("train", "held_out", "test")
    }


@pytest.mark.parametrize(
    ("tag", "column"),
    [
        ("1 quality/top-1", "top1"),
        ("1 quality/top-5", "top5"),
        ("1 quality/loss", "loss"),
        ("2 speed/images per second", "images_per_second"),
        ("2 speed/seconds", "seconds"),
        ("3 schedule/learning rate", "learning_rate"),
    ],
)
def test_scalars_are_the_columns_of_the_history(finished, written, tag, column):
    history = files.read_history(finished / "history.csv")
    for name, key in (("train", column), ("held_out", f"val_{column}")):
        if key in history[0]:
            expected = {row["epoch"]: pytest.approx(row[key], rel=1e-6) for row in history}
            assert written[name][tag] == expected
        else:
            assert tag not in written[name]


def test_the_test_result_is_at_the_last_epoch(finished, written):
    result = files.read_json(finished / "result.json")
    for tag, key in (("top-1", "top1"), ("top-5", "top5"), ("loss", "loss")):
        assert written["test"][f"1 quality/{tag}"] == {4: pytest.approx(result[key], rel=1e-6)}


def test_groups_begin_with_the_quality_and_every_tag_has_a_description(finished, written):
    tags = [tag for series in written.values() for tag in series]
    first = sorted({tag.split("/")[0] for tag in tags})[:4]
    assert first == ["1 quality", "2 speed", "3 schedule", "4 gate mean"]
    for name, series in written.items():
        accumulator = events.accumulator(finished / "tensorboard" / name)
        for tag in series:
            assert accumulator.SummaryMetadata(tag).summary_description, tag


def test_the_configuration_is_a_table(written):
    ((text,),) = [series.values() for tag, series in written["train"].items() if "config" in tag]
    for row in (
        "| arch | r18w8_nam |",
        "| batch_size | 64 |",
        f"| tensorflow | {tf.__version__} |",
    ):
        assert row in text.item().decode()
    assert "class_names" not in text.item().decode()


@pytest.mark.parametrize(
    ("run", "tag"), [("train", "augmented images"), ("test", "mistakes"), ("test", "confusions")]
)
def test_pictures(written, run, tag):
    (series,) = (series for name, series in written[run].items() if name.endswith(tag))
    ((_, _, picture),) = series.values()  # width, height, PNG: once, of two calls of `fit`
    assert tf.io.decode_png(picture).shape[-1] == 3


def test_hyper_parameters(finished):
    data = {
        tag: plugin_data_pb2.HParamsPluginData.FromString(content)
        for tag, content in events.accumulator(finished / "tensorboard")
        .PluginTagToContent(metadata.PLUGIN_NAME)
        .items()
    }
    session = data[metadata.SESSION_START_INFO_TAG].session_start_info
    assert session.group_name == finished.name, "the trial's name in the table"
    values = session.hparams
    assert values["arch"].string_value == "r18w8_nam"
    assert values["batch_size"].number_value == 64
    assert values["progressive_sizes"].string_value == "16, 32"
    experiment = data[metadata.EXPERIMENT_TAG].experiment
    assert {info.name for info in experiment.hparam_infos} == set(values)
    names = {(info.name.group, info.name.tag) for info in experiment.metric_infos}
    assert ("test", "1 quality/top-1") in names
