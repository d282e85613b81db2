"""The SavedModel that a run leaves: the signatures a server sees, and how they are written.

`serving_default`: `image`, float32 [N, H, W, 3] in 0–255, to `logits` and `probabilities`, float32
[N, classes]. `serving_bytes`: `image_bytes`, string [N], PNG or JPEG, to the same.
`assets/preprocessing.json` says how an image is made of a picture.
"""

import errno
import hashlib
import os
import shutil
from pathlib import Path

import tensorflow as tf

import keras_nam
from training.data.pictures import MAX_ENCODED_PIXELS, Resize
from training.data.streams import normalize
from training.runs import files


def scores(logits):
    """Returns the outputs of a classifier, of its logits [N, classes]."""
    return {"logits": logits, "probabilities": tf.nn.softmax(logits)}


class Served(tf.Module):
    """A float32 Keras model behind the two signatures.

    Args:
        model: A `keras.Model`.
        resize: The `pictures.Resize` of the signature `serving_bytes`.
        preprocess: Function of images [N, H, W, 3] in 0–255 to the model's inputs.
        to_scores: Function of the model's outputs to a dictionary of `logits` and `probabilities`.
        size: (height, width, 3) of an image; `None` where the model takes any.
    """

    def __init__(self, model, resize, preprocess, to_scores=scores, size=None):
        super().__init__()
        size = size or model.input_shape[1:]
        self.resize = resize
        # The TensorFlow variables themselves: what Keras wraps around them is not restored by a
        # server, and Keras' own export stores each of them twice.
        self.weights = [variable.value for variable in model.variables]

        def predict(image):
            return to_scores(model(preprocess(image), training=False))

        @tf.function(input_signature=[tf.TensorSpec([None, *size], tf.float32, name="image")])
        def serving_default(image):
            with tf.control_dependencies([not_empty(image)]):
                # Without it a request of another rank aborts the server, in oneDNN's convolution.
                image = tf.ensure_shape(image, [None, *size])
            with tf.control_dependencies([finite(image)]):
                return predict(tf.identity(image))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def serving_bytes(image_bytes):
            with tf.control_dependencies([not_empty(image_bytes)]):
                image_bytes = tf.ensure_shape(image_bytes, [None])
            images = tf.map_fn(
                lambda picture: decode(picture, resize),
                image_bytes,
                fn_output_signature=tf.TensorSpec((*resize[:2], 3), tf.float32),
            )
            return predict(images)

        self.functions = {"serving_default": serving_default, "serving_bytes": serving_bytes}


def not_empty(batch):
    """Returns the operation that refuses an empty batch, of any rank."""
    message = "Expected one picture or more; received an empty batch, of shape"
    return tf.debugging.Assert(tf.size(batch) > 0, [message, tf.shape(batch)], summarize=8)


def finite(images):
    """Returns the operation that refuses NaN and infinite pixels."""
    total = tf.reduce_sum(images)  # quicker than a test of each pixel
    message = "Expected finite pixels of 0-255; received pixels whose sum is"
    # As a string: a number would make a branch of it, which converters do not drop.
    return tf.debugging.Assert(tf.math.is_finite(total), [message, tf.strings.as_string(total)])


def decode(picture, resize):
    """Returns an encoded PNG or JPEG as float32 [H, W, 3] in 0–255, as `pictures.read` makes it."""
    is_png = tf.strings.substr(picture, 0, 4) == b"\x89PNG"
    is_jpeg = tf.strings.substr(picture, 0, 3) == b"\xff\xd8\xff"
    with tf.control_dependencies(
        [tf.debugging.Assert(is_png | is_jpeg, ["The image is neither a PNG nor a JPEG."])]
    ):
        height, width = tf.unstack(
            tf.cond(
                is_png,
                lambda: _png_shape(picture),
                lambda: tf.cast(tf.image.extract_jpeg_shape(picture)[:2], tf.int64),
            )
        )
    bounded = tf.debugging.Assert(
        height * width <= MAX_ENCODED_PIXELS, ["The image declares", height, "x", width, "pixels."]
    )
    with tf.control_dependencies([bounded]):
        image = tf.cond(
            is_png,
            lambda: tf.io.decode_png(picture, channels=3),
            # The default method is faster, and its pixels differ from other decoders' by up to 8.
            lambda: tf.io.decode_jpeg(picture, channels=3, dct_method="INTEGER_ACCURATE"),
        )
    return _resized(tf.cast(image, tf.float32), resize)


def _resized(image, resize):
    """Returns what a `Resize` makes of float32 pixels. Only the part that it keeps is computed."""
    size = tf.shape(image)[:2]
    if resize.crop_fraction is None:
        scaled = tf.constant(resize[:2])
    else:  # in float64, as Python computes it
        cover = [round(length / resize.crop_fraction) for length in resize[:2]]
        lengths = tf.cast(size, tf.float64)
        factor = tf.reduce_max(tf.constant(cover, tf.float64) / lengths)
        scaled = tf.cast(tf.round(lengths * factor), tf.int32)
    return tf.raw_ops.ScaleAndTranslate(  # what `tf.image.resize` calls
        images=image[None],
        size=resize[:2],
        scale=tf.cast(scaled, tf.float32) / tf.cast(size, tf.float32),
        translation=-tf.cast((scaled - resize[:2]) // 2, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )[0]


def _png_shape(picture):
    """Returns (height, width) as the header of a PNG, its bytes 16 to 24, declares them."""
    enough = tf.debugging.Assert(tf.strings.length(picture) >= 24, ["The PNG has no header."])
    with tf.control_dependencies([enough]):
        header = tf.strings.substr(picture, 16, 8)
    width_and_height = tf.io.decode_raw(header, tf.int32, little_endian=False)
    return tf.cast(tf.reshape(width_and_height, [2])[::-1], tf.int64)


def preprocessing(resize, class_names):
    """Returns the content of a `preprocessing.json`, without the hashes of the model's files.

    Args:
        resize: A `pictures.Resize`.
        class_names: List of strings, by label, or `None`.
    """
    return {
        **resize.as_json(),
        "channels": "RGB",
        "range": [0, 255],
        "input": "image",
        "outputs": ["logits", "probabilities"],
        "class_names_sha256": class_names and hashlib.sha256(labels(class_names)).hexdigest(),
    }


def labels(class_names):
    """Returns the content of a `labels.txt`."""
    return "".join(f"{name}\n" for name in class_names).encode()


def save(model, folder, class_names, mean, std, crop_fraction=None, version=1, fold=True):
    """Writes `folder/<version>/` by a rename: the server never sees half a version.

    Args:
        model: A `keras.Model` of dtype float32.
        folder: Path, TensorFlow Serving's base path of the model.
        class_names: List of strings, by label.
        mean, std: Tuples of R, G and B, 0–1.
        crop_fraction: See `pictures.Resize`.
        version: Integer.
        fold: Whether the normalizations are folded, see `keras_nam.fold`.

    Returns:
        The path of the version.

    Raises:
        OSError: If the disk is full. The folder is then unchanged.
    """
    served = Served(
        keras_nam.fold(model) if fold else model,
        Resize(*model.input_shape[1:3], crop_fraction),
        lambda image: normalize(image, mean, std),
    )
    return write(served, folder, class_names, version)


def write(served, folder, class_names, version=1, check=lambda folder: None):
    """Writes a `Served`, as `save`; `check` is called with the version before its rename.

    `class_names` may be `None`, if they are not known.
    """
    folder = Path(folder)
    final = folder / str(version)
    # The server takes only numbers for versions.
    temporary, old = (folder / f".version-{version}.{word}" for word in ("writing", "old"))
    for left in (temporary, old):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        tf.saved_model.save(served, str(temporary), signatures=served.functions)
        assets = temporary / "assets"
        assets.mkdir(exist_ok=True)
        if class_names:
            (assets / files.LABELS).write_bytes(labels(class_names))
        stored = [temporary / "saved_model.pb", *sorted((temporary / "variables").iterdir())]
        hashes = {str(path.relative_to(temporary)): files.sha256(path) for path in stored}
        description = {**preprocessing(served.resize, class_names), "sha256": hashes}
        files.write_json(assets / files.PREPROCESSING, description)
        _write_warmup(temporary / "assets.extra", (*served.resize[:2], 3))
        check(temporary)
        if final.exists():  # a server would see parts of it if it were deleted here
            os.replace(final, old)
        os.replace(temporary, final)
    except tf.errors.ResourceExhaustedError:  # a full disk
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not final.exists():
            os.replace(old, final)
        shutil.rmtree(old, ignore_errors=True)
    return final


def _write_warmup(folder, size):
    """Writes a request for each signature, which the server answers before it takes others."""
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    image = tf.zeros([1, *size], tf.float32)
    png = tf.io.encode_png(tf.zeros(size, tf.uint8))
    requests = {
        "serving_default": {"image": image},
        "serving_bytes": {"image_bytes": tf.expand_dims(png, 0)},
    }
    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        for signature, inputs in requests.items():
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictLog(request=request)
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())
