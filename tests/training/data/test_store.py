"""Pictures in memory, on the disk and decoded each time are the same; so are their views."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support import picture_folder
from training.data import augment, datasets, folder, pictures, store, streams, views

RESIZE = pictures.Resize(32, 32, crop_fraction=0.875)


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        root = picture_folder.make(tmp_path_factory.mktemp("data") / "pictures", count=12)
        part = folder.open_folder(root).parts["train"]
        sizes = np.array([(p.entry.height, p.entry.width) for p in part])
        is_jpeg = np.array([p.entry.is_jpeg for p in part])
        yield store.Decoded([root / p.name for p in part], RESIZE, sizes, is_jpeg)


def images(decoded, cache):
    return store.Images(store.stored(decoded, cache, "key"), RESIZE, np.arange(len(decoded)))


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_stores_hold_the_pixels_that_pillow_reads(decoded, cache):
    found = images(decoded, cache)
    assert found.shape == (len(decoded), 32, 32, 3)
    np.testing.assert_array_equal(found[:], images(decoded, "none")[:])
    plain = int(decoded.is_jpeg.argmax())
    with Image.open(decoded.paths[plain]) as picture:
        height, width = RESIZE.scaled(picture.height, picture.width)
        whole = np.asarray(picture.convert("RGB").resize((width, height), Image.BILINEAR))
    assert min(whole.shape[:2]) == round(32 / 0.875)
    np.testing.assert_array_equal(found[plain], RESIZE.crop(whole))
    np.testing.assert_array_equal(found.take([3, 1])[1:], found[[1]])
    assert found[np.array([], int)].shape == (0, 32, 32, 3)


def test_auto_uses_a_cache_file_that_is_there(decoded, tmp_path, monkeypatch):
    """Also if the disk has no room for a second one: a resumed training sees the same pixels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(store, "SHARE_OF_MEMORY", 0)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=0))
    assert isinstance(store.stored(decoded, "auto", "key"), store.Decoded)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store.stored(decoded, "disk", "key")
    monkeypatch.setattr(store, "SHARE_OF_MEMORY", 0)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=0))
    assert isinstance(store.stored(decoded, "auto", "key"), store.Stored)


def test_streams_of_views(decoded):
    draws = tf.random.stateless_uniform([len(decoded), views.DRAWS], [0, 1])
    dataset = tf.data.Dataset.from_tensors((tf.range(len(decoded), dtype=tf.int64), draws))
    found = {
        cache: next(
            iter(views.batches(images(decoded, cache), dataset, crop, len(decoded)))
        ).numpy()
        for cache in ("memory", "none")
        for crop in [views.RandomResizedCrop(area=0.5)]
    }
    # The store's pictures are smaller than the files: the noise differs, the content does not.
    coarse = [tf.nn.avg_pool2d(batch, 8, 8, "VALID") for batch in found.values()]
    assert np.abs(coarse[0] - coarse[1]).mean() < 4
    whole = views.batches(images(decoded, "none"), dataset, None, len(decoded))
    np.testing.assert_array_equal(next(iter(whole)), images(decoded, "none")[:])
    in_order = np.concatenate([*views.in_order(images(decoded, "memory"), 7)])
    np.testing.assert_array_equal(in_order, images(decoded, "memory")[:])


def test_boxes_cover_the_area_and_aspect_that_are_asked_for():
    draws = tf.random.stateless_uniform([4000, views.DRAWS], [0, 1])
    crop = views.RandomResizedCrop(area=0.5, aspect=0.8)
    boxes = crop.boxes(tf.tile([[400, 600]], [4000, 1]), draws, (32, 32)).numpy()
    top, left, height, width = boxes.T
    assert top.min() >= 0
    assert (top + height).max() <= 400
    assert left.min() >= 0
    assert (left + width).max() <= 600
    uncut = (height < 400) & (width < 600)
    area, aspect = (height * width / 240_000)[uncut], (width / height)[uncut]
    assert 0.498 < area.min() < 0.52
    assert 0.79 < aspect.min() < 0.82
    assert 1.22 < aspect.max() < 1.27
    assert abs((left / (601 - width)).mean() - 0.5) < 0.03


def test_large_jpegs_are_decoded_at_a_lower_resolution(tmp_path):
    picture = Image.new("RGB", (1200, 800), "red")
    picture.paste("blue", (0, 0, 600, 800))
    picture.save(tmp_path / "large.jpg", quality=95)
    large = store.Decoded(
        [tmp_path / "large.jpg"], RESIZE, np.array([[800, 1200]]), np.array([True])
    )
    draws = tf.constant([[1.0, 0.5, 0.0, 0.0, 1.0]])  # the whole height, the left of the width
    dataset = tf.data.Dataset.from_tensors((tf.constant([0], tf.int64), draws))
    crop = views.RandomResizedCrop(area=0.9999)
    batch = views.batches(store.Images(large, RESIZE, np.arange(1)), dataset, crop, 1)
    (image,) = next(iter(batch)).numpy()
    assert image[:, :16, 2].min() > 240
    assert image[:, -8:, 0].min() > 240


@pytest.mark.parametrize("is_jpeg", [False, True])
def test_large_pictures_are_antialiased_in_a_crop(tmp_path, is_jpeg):
    """As in an evaluation: noise is smoothed."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (320, 320, 3), np.uint8))
    noise.save(path := tmp_path / ("noise.jpg" if is_jpeg else "noise.png"), quality=95)
    source = store.Decoded([path], RESIZE, np.array([[320, 320]]), np.array([is_jpeg]))
    one = store.Images(source, RESIZE, np.arange(1))
    drawn = tf.data.Dataset.from_tensors(([0], tf.zeros([1, views.DRAWS])))
    crop = views.RandomResizedCrop(area=1.0, aspect=1.0)
    (image,) = next(iter(views.batches(one, drawn, crop, 1)))
    expected = np.asarray(noise.resize((32, 32), Image.BILINEAR)).std()
    assert image.numpy().std() == pytest.approx(expected, rel=0.4)


def test_mirrored_crops(decoded):
    draws = tf.random.stateless_uniform([len(decoded), views.DRAWS], [0, 1])
    dataset = tf.data.Dataset.from_tensors((tf.range(len(decoded), dtype=tf.int64), draws))
    found = {
        flip: next(
            iter(
                views.batches(
                    images(decoded, "memory"),
                    dataset,
                    views.RandomResizedCrop(flip=flip),
                    len(decoded),
                )
            )
        ).numpy()
        for flip in (0.0, 0.5)
    }
    flips = draws[:, 4].numpy() < 0.5
    assert 0 < flips.sum() < len(flips)
    np.testing.assert_array_equal(found[0.5][~flips], found[0.0][~flips])
    np.testing.assert_array_equal(found[0.5][flips], found[0.0][flips][:, :, ::-1])


def test_crops_of_arrays_are_the_same_rectangles():
    """A picture whose red is the row and whose green is the column shows its rectangle."""
    rows, columns = np.mgrid[:32, :32].astype("float32")
    batch = tf.tile(np.stack([rows, columns, rows], -1)[None], [64, 1, 1, 1])
    draws = tf.random.stateless_uniform([64, views.DRAWS], [0, 1])
    crop = views.RandomResizedCrop(flip=0.5)
    cropped = crop.of_arrays(batch, draws).numpy()
    top, left, height, width = crop.boxes(tf.tile([[32, 32]], [64, 1]), draws, (32, 32)).numpy().T
    np.testing.assert_allclose(cropped[:, 0, 0, 0], top, atol=1e-3)
    np.testing.assert_allclose(cropped[:, -1, 0, 0], top + height - 1, atol=1e-3)
    edges = cropped[:, 0, [0, -1], 1]
    mirrored = crop.flips(draws).numpy()
    edges[mirrored] = edges[mirrored][:, ::-1]
    np.testing.assert_allclose(edges, np.stack([left, left + width - 1], -1), atol=1e-3)


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_shards_are_rows_of_the_whole_batch(decoded, cache):
    split = datasets.Split(images(decoded, cache), np.arange(len(decoded)))
    augmentation = augment.compose(["random_resized_crop:flip=0.5", "random_brightness"])

    def batch(*shard):
        how = ((0.5,) * 3, (0.25,) * 3, augmentation)
        stream = streams.training_stream(split, 12, *how, seed=3, first_step=1, shard=shard)
        return next(iter(stream))

    whole, parts = batch(0, 1), [batch(0, 2), batch(1, 2)]
    for number in range(2):
        together = np.concatenate([part[number] for part in parts])
        np.testing.assert_array_equal(together, whole[number])


EPOCH = """
import resource, sys
from training.data import augment, datasets, streams
split = datasets.load(sys.argv[1], image_size=(64, 64), cache="none").train
stream = streams.training_stream(
    split, 8, (0.5,) * 3, (0.25,) * 3, augment.compose(["random_resized_crop"])
)
peaks = []
for number, _ in enumerate(stream.take(3 * len(split) // 8)):
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(len(split), peaks[10], peaks[-1])
"""


@pytest.mark.slow
def test_memory_is_bounded_without_a_cache(tmp_path):
    """120 pictures of 3 MB each, 360 MB decoded, in three epochs."""
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    picture = Image.fromarray(noise).resize((1000, 1000))
    for number in range(120):
        path = tmp_path / "pictures" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < 2:
            picture.save(path, compress_level=1)
        else:
            path.hardlink_to(tmp_path / "pictures" / str(number % 2) / f"{number % 2}.png")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", EPOCH, str(tmp_path / "pictures")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    count, early, late = map(float, ended.stdout.split())
    assert count > 100
    assert late - early < 150  # MB
