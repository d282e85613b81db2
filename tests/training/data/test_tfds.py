"""TFDS sets by name: their features, splits and sizes, with small sets and the local CIFAR-100."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from training.cli import InputError
from training.data import datasets


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A TFDS folder: grey images of one size; pictures of many sizes; pictures without labels."""
    folder = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)
    label = tfds.features.ClassLabel(names=["cat", "dog"])

    def store(name, splits, **features):
        def dataset(examples):
            signature = tfds.features.FeaturesDict(features).get_tensor_info()
            signature = {k: tf.TensorSpec(v.shape, v.dtype) for k, v in signature.items()}
            return tf.data.Dataset.from_generator(lambda: examples, output_signature=signature)

        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            features=tfds.features.FeaturesDict(features),
            split_datasets={split: dataset(examples) for split, examples in splits.items()},
            data_dir=folder,
        )

    def image(height, width, channels):
        return rng.integers(0, 256, (height, width, channels), np.uint8)

    grey = [{"image": image(12, 10, 1), "label": number % 2} for number in range(12)]
    store(
        "grey",
        {"train": grey[:8], "test": grey[8:]},
        image=tfds.features.Image(shape=(12, 10, 1)),
        label=label,
    )
    hidden = [{**example, "label": -1} for example in grey]
    store(
        "competition",
        {"train": grey[:6], "validation": grey[6:10], "test": hidden[10:]},
        image=tfds.features.Image(shape=(12, 10, 1)),
        label=label,
    )
    store("hidden", {"train": hidden}, image=tfds.features.Image(shape=(12, 10, 1)), label=label)
    sizes = rng.integers(30, 70, (20, 2))
    various = [{"photo": image(*size, 3), "kind": i % 2} for i, size in enumerate(sizes)]
    photo = tfds.features.Image(shape=(None, None, 3))
    store("various", {"train": various}, photo=photo, kind=label)
    store("unlabelled", {"train": [{"photo": v["photo"]} for v in various]}, photo=photo)
    grey_image = tfds.features.Image(shape=(12, 10, 1))
    features = {"image": grey_image, "part": label, "label": label}
    double = [{**example, "part": 0} for example in grey]
    store("two_labels", {"train": double}, **features)
    store("two_labels_supervised", {"train": double}, **features)
    path = folder / "two_labels_supervised" / "1.0.0" / "dataset_info.json"
    info = json.loads(path.read_text())
    keys = [{"featureKey": key} for key in ("image", "label")]
    info["supervisedKeys"] = {"tuple": {"items": keys}}
    path.write_text(json.dumps(info))
    store(
        "three_parts",
        {"train": grey[:8], "validation": grey[8:10], "test": grey[10:]},
        image=grey_image,
        label=label,
    )
    return str(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_grey_images_of_one_size_are_an_array(folder):
    found = datasets.load("tfds:grey", folder)
    assert found.image_shape == (12, 10, 3)
    assert (len(found.train), len(found.test), found.validation) == (8, 4, None)
    assert isinstance(found.train.images, np.ndarray)
    assert found.train.images.std() > 50
    assert np.ptp(found.train.images, -1).max() == 0
    assert found.class_names == ["cat", "dog"]
    assert "grey/1.0.0" in found.source
    again = datasets.load("tfds:grey:1.0.0", folder)  # from the cache
    np.testing.assert_array_equal(found.train.images, again.train.images)
    np.testing.assert_array_equal(found.train.labels, again.train.labels)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_pictures_of_many_sizes_without_a_test_split(folder, kind):
    found = datasets.load(
        "tfds:various", folder, image_size=(24, 32), validation_split=0.2, cache=kind
    )
    assert found.image_shape == (24, 32, 3)
    assert found.resize.crop_fraction == 0.875
    assert [len(split) for split in (found.train, found.validation, found.test)] == [14, 4, 2]
    assert found.train.images[:3].shape == (3, 24, 32, 3)
    other = datasets.load("tfds:various", folder, image_size=(24, 32), seed=7)
    np.testing.assert_array_equal(found.test.images[:], other.test.images[:])  # of every seed


@pytest.mark.parametrize("kind", ["disk", "none"])
def test_images_of_one_size_stay_in_the_file(folder, kind):
    found = datasets.load("tfds:grey", folder, cache=kind)
    assert not isinstance(found.train.images, np.ndarray)
    array = datasets.load("tfds:grey", folder, cache="memory")
    np.testing.assert_array_equal(found.train.images[:], array.train.images)


def test_of_two_labels_the_supervised_one(folder):
    found = datasets.load("tfds:two_labels_supervised", folder)
    assert sorted({*found.train.labels, *found.test.labels}) == [0, 1]


def test_a_validation_part_and_a_share_for_it(folder):
    assert len(datasets.load("tfds:three_parts", folder).validation) == 2
    with pytest.raises(InputError, match=r"--validation-split 0\.2.*has a validation part"):
        datasets.load("tfds:three_parts", folder, validation_split=0.2)


def test_a_test_split_without_labels_is_not_the_test_part(folder):
    found = datasets.load("tfds:competition", folder)
    assert (len(found.train), len(found.test), found.validation) == (6, 4, None)


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("none", "none"),
        ("unlabelled", "class label"),
        ("two_labels", "one class label; it has image, label, part"),
        ("hidden", "12 images of the split train"),
    ],
)
def test_refused(folder, name, token):
    with pytest.raises(InputError, match=token):
        datasets.load(f"tfds:{name}", folder)


@pytest.mark.slow
@pytest.mark.skipif(
    not os.path.isdir(os.path.join(os.environ.get("TFDS_DATA_DIR", ""), "cifar100")),
    reason="TFDS_DATA_DIR has no cifar100",
)
def test_cifar100_by_its_tfds_name_is_the_same():
    found = [datasets.load(name).test for name in ("cifar100", "tfds:cifar100")]
    ours, theirs = (
        sorted(zip(split.labels.tolist(), split.images.sum((1, 2, 3)).tolist(), strict=True))
        for split in found
    )
    assert ours == theirs
