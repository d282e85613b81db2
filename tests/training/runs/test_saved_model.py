"""The SavedModel: what a server loads, what it answers, and what it refuses."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support.networks.gated_networks import network
from tests.support.serving import server_session
from training.cli import InputError
from training.data import pictures, streams
from training.runs import files, saved_model

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
NAMES = [f"class {number}" for number in range(10)]
INVALID_ARGUMENT = 3


@pytest.fixture(scope="module")
def model():
    return network(width=128)


@pytest.fixture(scope="module")
def version(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    return saved_model.save(model, folder, NAMES, MEAN, STD)


@pytest.fixture(scope="module")
def served(version):
    return tf.saved_model.load(str(version))


def logits_of(model, images):
    return np.asarray(model(streams.normalize(images, MEAN, STD), training=False))


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_version_folder(model, version, served):
    assert version.name == "1"
    assert [path.name for path in version.parent.iterdir()] == ["1"]
    assert (version / "assets" / "labels.txt").read_text().splitlines() == NAMES
    assert (version / "assets.extra" / "tf_serving_warmup_requests").stat().st_size > 0
    stored = sum(path.stat().st_size for path in (version / "variables").glob("*.data*"))
    assert stored < 1.05 * 4 * model.count_params(), "variables are stored once"
    assert set(served.signatures) == {"serving_default", "serving_bytes"}
    spec = served.signatures["serving_default"].structured_input_signature[1]["image"]
    assert (spec.shape.as_list(), spec.dtype) == ([None, 32, 32, 3], tf.float32)
    for signature in served.signatures.values():
        outputs = signature.structured_outputs
        assert {k: (v.shape.as_list(), v.dtype) for k, v in outputs.items()} == {
            "logits": ([None, 10], tf.float32),
            "probabilities": ([None, 10], tf.float32),
        }


def png(image):
    return tf.io.encode_png(image).numpy()


def declared(side):
    """Returns a PNG of another size that declares a square of this side."""
    encoded = png(images(1)[0])
    return encoded[:16] + 2 * side.to_bytes(4, "big") + encoded[24:]


# What is sent to the two signatures: a shape, or encoded pictures.
GOOD = {
    "two images": (2, 32, 32, 3),
    "many images": (1_000, 32, 32, 3),
    "two images again": (2, 32, 32, 3),
    "two pictures": [png(image) for image in images(2)],
}
BAD = {
    "rank 3": (32, 32, 3),
    "rank 1": (2,),
    "another size": (2, 8, 8, 3),
    "four channels": (2, 32, 32, 4),
    "NaN": (1, 32, 32, 3),
    "infinity": (65, 32, 32, 3),
    "no image": (0, 32, 32, 3),
    "nothing": (0,),
    "no width": (2, 32, 0, 3),
    "no pictures": [],
    "an empty picture": [b""],
    "no picture": [b"not a picture at all"],
    "a GIF": [b"GIF89a" + bytes(40)],
    "a PNG cut in its header": [b"\x89PNG"],
    "a PNG cut short": [png(images(1)[0])[:200]],
    "no JPEG": [b"\xff\xd8\xff" + bytes(100)],
    "one good, one bad": [png(images(1)[0]), bytes(100)],
    **{f"{side} x {side}": [declared(side)] for side in (60_000, 2**31 - 1, 2**32 - 1)},
}
# A part of the error message.
MESSAGES = {
    "NaN": "Expected finite pixels of 0-255; received pixels whose sum is] [nan]",
    "infinity": "Expected finite pixels of 0-255; received pixels whose sum is] [-inf]",
    "no image": "one picture or more; received an empty batch, of shape] [0 32 32 3]",
    "nothing": "one picture or more; received an empty batch, of shape] [0]",
    "no width": "one picture or more; received an empty batch, of shape] [2 32 0 3]",
    "no pictures": "one picture or more; received an empty batch, of shape] [0]",
    "a GIF": "neither a PNG nor a JPEG",
    "a PNG cut in its header": "no header",
    "60000 x 60000": "declares",
    "2147483647 x 2147483647": "declares",
}


def requests(version, contents):
    """Returns what `server_session` reads: the signatures' tensors, and what is sent to them."""
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((version / "saved_model.pb").read_bytes())
    signatures = proto.meta_graphs[0].signature_def
    found = {}
    for what, content in contents.items():
        encoded = isinstance(content, list)
        signature = signatures["serving_bytes" if encoded else "serving_default"]
        (sent,) = signature.inputs.values()
        if encoded:
            content = [base64.b64encode(part).decode() for part in content]
        found[what] = [sent.name, signature.outputs["logits"].name, content]
    return found


def test_server_session(model, version):
    """The loader that the server uses answers every request, and never aborts."""
    bad_first = {**BAD, **GOOD}
    process = subprocess.run(
        [sys.executable, server_session.__file__, version],
        input=json.dumps(requests(version, bad_first)),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert process.returncode == 0, process.stderr[-2000:]
    answers = json.loads(process.stdout)
    codes = {what: code for what, (code, _) in answers.items()}
    assert codes == {**dict.fromkeys(BAD, INVALID_ARGUMENT), **dict.fromkeys(GOOD, 0)}
    assert {what: text for what, text in MESSAGES.items() if text not in answers[what][1]} == {}
    sent = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    for what, given in {
        "two images": sent,
        "two images again": sent,
        "two pictures": images(2),
    }.items():
        np.testing.assert_allclose(answers[what][1], logits_of(model, given), atol=1e-5)


def test_encoded_images(model, served):
    png, jpg = tf.io.encode_png(images(1)[0]).numpy(), tf.io.encode_jpeg(images(1)[0]).numpy()
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(picture))) for picture in (png, jpg)])
    grey = [tf.io.encode_png(np.full((*size, 3), 128, np.uint8)) for size in ((70, 50), (32, 32))]
    sent = tf.constant([png, jpg, *(picture.numpy() for picture in grey)])
    logits = served.signatures["serving_bytes"](image_bytes=sent)["logits"]
    np.testing.assert_allclose(logits[:2], logits_of(model, decoded), atol=1e-5)
    np.testing.assert_allclose(logits[2], logits[3], atol=1e-5)  # resized


def jpeg(image, mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": "4:2:0"},
        {"subsampling": "4:2:2", "quality": 95},
        {"progressive": True},
        {"mode": "L"},
        {"mode": "CMYK", "quality": 95},
    ],
    ids=str,
)
def test_jpegs_are_decoded_as_by_pillow(options):
    """Of an odd size, so that blocks are cut and colours are of half a pixel."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:97, 0:131]
    smooth = np.stack([127 + 120 * np.sin(x / 9), 127 + 120 * np.cos(y / 7), (x + y) % 256], -1)
    for image in (smooth.astype(np.uint8), rng.integers(0, 256, (33, 17, 3), np.uint8)):
        encoded = jpeg(image, **options)
        expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"), np.float32)
        decoded = saved_model.decode(tf.constant(encoded), pictures.Resize(*image.shape[:2]))
        np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("crop_fraction", [None, 0.875, 1.0])
@pytest.mark.parametrize("size", [(37, 53), (500, 375), (64, 64), (1200, 90), (20, 300)], ids=str)
def test_pictures_are_resized_and_cropped_as_by_the_client(size, crop_fraction):
    """Pillow rounds after each of two passes, by 0.5, and its factors by a little more."""
    resize = pictures.Resize(48, 64, crop_fraction)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]]
    smooth = np.stack([127 + 120 * np.sin(x / 9), 127 + 120 * np.cos(y / 7), (x + y) % 256], -1)
    noise = rng.integers(0, 256, (*size, 3))
    for image in (smooth, noise):
        for encoded in (png(image.astype(np.uint8)), jpeg(image.astype(np.uint8))):
            expected = pictures.read(encoded, resize).astype(float)
            found = saved_model.decode(tf.constant(encoded), resize).numpy()
            assert found.shape == (48, 64, 3)
            if crop_fraction is None and encoded[:4] == b"\x89PNG":
                np.testing.assert_array_equal(
                    found, tf.image.resize(image.astype(np.uint8), (48, 64), antialias=True)
                )
            assert np.abs(found - expected).max() < 1.01


def test_the_whole_of_a_very_wide_picture_is_never_resized():
    """It would be of 55 × 3.7 million pixels, 2.4 GB."""
    encoded = png(np.zeros((1, 67_000, 3), np.uint8))
    assert saved_model.decode(tf.constant(encoded), pictures.Resize(48, 64, 0.875)).shape[0] == 48
    with pytest.raises(InputError, match="too narrow"):
        pictures.read(encoded, pictures.Resize(48, 64, 0.875))


def test_preprocessing_json(version):
    found = json.loads((version / "assets" / "preprocessing.json").read_text())
    rule = {"height": 32, "width": 32, "rule": "resize", "crop_fraction": None}
    assert {key: found[key] for key in rule} == rule
    assert pictures.Resize.from_json(found) == pictures.Resize(32, 32)
    assert found["class_names_sha256"] == files.sha256(version / "assets" / "labels.txt")
    assert {name: files.sha256(version / name) for name in found["sha256"]} == found["sha256"]
    assert {"saved_model.pb", "variables/variables.index"} < set(found["sha256"])


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("training.runs.saved_model._write_warmup", OSError(28, "No space left on device")),
        (
            "training.runs.saved_model.tf.saved_model.save",
            tf.errors.ResourceExhaustedError(None, None, "No space left"),
        ),
    ],
)
def test_a_full_disk_leaves_the_old_version(model, version, monkeypatch, part, error):
    before = (version / "fingerprint.pb").read_bytes()

    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr(part, full)
    with pytest.raises(OSError, match="No space left on device"):
        saved_model.save(model, version.parent, NAMES, MEAN, STD)
    assert [path.name for path in version.parent.iterdir()] == ["1"]
    assert (version / "fingerprint.pb").read_bytes() == before


def test_a_failed_rename_restores_the_old_version(model, version, monkeypatch):
    replace = os.replace

    def fail(source, target):
        if "writing" in source.name:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Input/output"):
        saved_model.save(model, version.parent, NAMES, MEAN, STD)
    assert [path.name for path in version.parent.iterdir()] == ["1"]


def test_versions_stand_side_by_side(model, version):
    saved_model.save(model, version.parent, NAMES, MEAN, STD, version=2)
    assert sorted(path.name for path in version.parent.iterdir()) == ["1", "2"]
    shutil.rmtree(version.parent / "2")
