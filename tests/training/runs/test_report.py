"""The numbers of the report, on predictions small enough to count by hand."""

import numpy as np
import pytest
import tensorflow as tf

import keras_nam
from training import evaluate
from training.cli import InputError
from training.runs.scores import accuracy_by_class, surest_mistakes, worst_confusions
from training.runs.scores import evaluate as scores_of

NAMES = ["cat", "dog", "owl"]
SCORES = {
    "labels": np.array([0, 0, 0, 0, 1, 1, 2]),
    "predictions": np.array([0, 1, 1, 2, 1, 0, 2]),
    "probabilities": np.array(
        [
            [0.9, 0.1, 0],
            [0, 1, 0],
            [0.4, 0.6, 0],
            [0, 0.3, 0.7],
            [0, 1, 0],
            [0.8, 0.2, 0],
            [0, 0, 1],
        ]
    ),
}


def test_accuracy_by_class_worst_first():
    assert accuracy_by_class(SCORES, NAMES) == [("cat", 0.25), ("dog", 0.5), ("owl", 1.0)]


def test_confusions_and_mistakes():
    assert worst_confusions(SCORES, NAMES, 2) == [("cat", "dog", 2), ("cat", "owl", 1)]
    assert surest_mistakes(SCORES, 3).tolist() == [1, 5, 3]
    right = {**SCORES, "predictions": SCORES["labels"]}
    assert len(surest_mistakes(right, 3)) == 0
    assert worst_confusions(right, NAMES) == []


def test_images_without_finite_logits_are_mistakes_and_no_confusions():
    """The argmax of NaN is class 0, which would be right for a cat."""
    scores = {**SCORES, "probabilities": SCORES["probabilities"].copy()}
    scores["probabilities"][[0, 1]] = np.nan
    assert accuracy_by_class(scores, NAMES) == [("cat", 0.0), ("dog", 0.5), ("owl", 1.0)]
    expected = [("cat", "dog", 1), ("cat", "owl", 1), ("dog", "cat", 1)]
    assert worst_confusions(scores, NAMES) == expected
    assert surest_mistakes(scores, 32).tolist() == [5, 3, 2]


def test_evaluate_in_batches():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(10, 7)).astype("float32"), rng.integers(0, 7, 10)

    class Identity:
        def predict(self, stream, verbose):
            return np.concatenate(list(stream.as_numpy_iterator()))

    stream = tf.data.Dataset.from_tensor_slices((logits, labels)).batch(4)
    scores = scores_of(Identity(), stream)
    ranks = (logits > logits[np.arange(10), labels][:, None]).sum(1)
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert scores["top1"] == pytest.approx(np.mean(ranks == 0))
    assert scores["top5"] == pytest.approx(np.mean(ranks < 5))
    assert scores["loss"] == pytest.approx(-log_softmax[np.arange(10), labels].mean(), rel=1e-5)


def test_flip_averages_the_logits_of_an_image_and_its_mirror_image():
    """A model that sees the left half only."""
    images = np.random.default_rng(0).normal(size=(6, 4, 4, 3)).astype("float32")

    class LeftHalf:
        def predict(self, stream, verbose):
            return np.concatenate([i[:, :, :2].mean((1, 2)) for i in stream.as_numpy_iterator()])

    stream = tf.data.Dataset.from_tensor_slices((images, [0, 1, 2] * 2)).batch(4)
    expected = tf.nn.softmax(images.mean((1, 2)))
    found = scores_of(LeftHalf(), stream, flip=True)["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(scores_of(LeftHalf(), stream)["probabilities"] - expected).max() > 0.01


@pytest.mark.parametrize(
    ("content", "message"), [(None, "is missing"), (b"not a zip", "cannot be loaded")]
)
def test_files_that_are_refused(tmp_path, content, message):
    path = tmp_path / "some.keras"
    if content:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        evaluate.main([str(path), "--dataset", "synthetic"])


def test_an_unknown_split(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"")
    with pytest.raises(InputError, match=r"--split 'train'; there are test, validation"):
        evaluate.main([str(tmp_path / "model.keras"), "--split", "train", "--dataset", "synthetic"])


def test_a_file_of_another_image_size(tmp_path):
    model = keras_nam.create_model("r18w4", 10, (48, 48, 3))
    model.save(tmp_path / "model.keras")
    evaluate.main([str(tmp_path / "model.keras"), "--dataset", "synthetic"])
    assert (tmp_path / "model-mistakes.png").is_file()
