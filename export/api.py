"""Exports from a Python program; `from export import export_onnx, verify_onnx, open_model`."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np

from export.runtime import devices, local_models
from export.runtime.classification import Classifier, open_any
from export.runtime.native_log import one_line
from export.runtime.preprocessing import Preprocessing
from export.runtime.signatures import IMAGE, fits
from export.runtime.single_output import SCORES
from export.targets import exporter, onnx
from export.verification import keras_models, keras_source, release, tensors
from training.cli import InputError, check_name

__all__ = ["Preprocessing", "export_onnx", "open_model", "verify_onnx"]


def export_onnx(
    model,
    path,
    images,
    labels=None,
    *,
    precision="float32",
    calibration=None,
    class_names=None,
    preprocessing=None,
    scores=None,
    fold=True,
    opset=17,
    provider="auto",
):
    """Exports a Keras model to ONNX and verifies the file on images.

    The file gets its name after ONNX Runtime has given the same scores as the Keras model in
    float32. It takes `image`, float32 [batch, height, width, 3] in 0–255, and returns `logits` and
    `probabilities` [batch, classes]. Other models than image classifiers keep their inputs and
    outputs, and their values are verified.

    Args:
        model: A built `keras.Model` of any make, in float32 or mixed precision, or the path of a
            `.keras` file.
        path: Path of the file, such as `"model.onnx"`. `verification.json` is written beside it.
        images: Array [N, height, width, 3] in 0–255 to verify on. For other models than image
            classifiers: a dictionary from input names to arrays.
        labels: Integers [N], to verify the accuracy; `None` if they are not known.
        precision: `"float32"`, `"float16"` or `"int8"`.
        calibration: Images as above, for the ranges of int8. They must be others than `images`:
            it is an error if all of them are among `images`.
        class_names: List of strings by label, for the file's metadata, or `None`.
        preprocessing: `Preprocessing` that is put into the file, before the model. By default the
            model gets pixels of 0–255. Like `labels`, `class_names` and `scores` it is refused for
            other models than image classifiers.
        scores: `"logits"` or `"probabilities"`, what the model returns; `None` to find it out by
            its last activation or the numbers.
        fold: Whether normalizations are folded into convolutions.
        opset: Integer, the ONNX opset.
        provider: ONNX Runtime's execution provider, such as `"cpu"` or `"cuda"`.

    Returns:
        The report, a dictionary, as in `verification.json`.

    Raises:
        VerificationError: If the file differs from the model. It is kept as `*.unverified.onnx`.
        InputError: If an argument does not fit.

    Example:

    >>> report = export_onnx(model, "model.onnx", images=x_test, labels=y_test)
    >>> report["stages"]["accuracy"]["top1"]
    """
    _check_precision(precision, calibration)
    path = Path(path)
    if path.suffix != ".onnx":
        raise InputError(f"{path}: expected a file name that ends with .onnx")
    source = _source(
        model,
        images,
        labels,
        calibration,
        preprocessing,
        as_pixels=True,
        class_names=class_names,
        scores=scores,
        fold=fold,
    )
    if precision == "int8" and not isinstance(source, tensors.TensorSource):
        _refuse_same(source.dataset.test.images, source.dataset.train.images)
    options = SimpleNamespace(
        precision=precision,
        opset=opset,
        provider=provider,
        samples=None if isinstance(source, tensors.TensorSource) else len(images),
        calibration_images=None if calibration is None else len(calibration),
    )
    return exporter.write(onnx.TARGET, source, path, options)


def verify_onnx(
    path,
    model,
    images,
    labels=None,
    *,
    precision="float32",
    preprocessing=None,
    scores=None,
    provider="auto",
):
    """Verifies an ONNX file that any tool made against the Keras model that it was made from.

    Names of inputs and outputs may be any; several are matched by their order. What is compared is
    ONNX Runtime's answers: weights that do not change the answers on these images are not seen.

    Args:
        path: Path of the file.
        model: The Keras model, or the path of a `.keras` file.
        images: Array [N, height, width, 3], as the file takes them, or a dictionary from the
            model's input names to arrays.
        labels: Integers [N], or `None`.
        precision: `"float32"`, `"float16"` or `"int8"`: which tolerances apply.
        preprocessing: `Preprocessing` that the file does itself, and the Keras model does not.
        scores: As for `export_onnx`.
        provider: As for `export_onnx`.

    Returns:
        The report, a dictionary with the numbers of each stage.

    Raises:
        VerificationError: If the file differs from the model; its `report` has the numbers.
        InputError: If the file or an argument does not fit.
    """
    _check_precision(precision)
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist: expected an ONNX file")
    candidate = local_models.OnnxModel(path, provider)
    declared = candidate.signatures()[IMAGE.signature]
    source = _source(
        model,
        images,
        labels,
        None,
        preprocessing,
        scores=scores,
        fold=False,
        keep_activation=len(declared.outputs) == 1,
    )
    if isinstance(source, tensors.TensorSource):
        tensors.check_precision(source.name, precision)
        candidate = tensors.Renamed(candidate, source)
        images = source.samples
    else:
        test = source.dataset.test
        images, labels = test.images, None if source.no_labels else test.labels
        if len(declared.outputs) == 1:
            candidate = local_models.SingleOutput(candidate, source.classify.kind)
    export = release.Export(
        source=source,
        path=Path(path),
        content=None,
        open_file=lambda path: (candidate, {"provider": candidate.provider}),
        precision=precision,
        images=images,
        labels=labels,
        judges_pixels=False,  # they are as the file takes them
    )
    report, failure = release.examine(export, Path(path))
    release.show(report)
    if failure:
        raise failure
    return report


def open_model(
    source,
    *,
    labels=None,
    preprocessing=None,
    crop_fraction=None,
    signature="image",
    scores=None,
    name="keras_nam",
    version=None,
    timeout=10.0,
):
    """Opens a model that classifies picture files: `open_model("model.onnx").classify(paths)`.

    Args:
        source: Path of a run folder, a SavedModel, an ONNX, LiteRT or `.keras` file; or the address
            of a server, `"http://host:8501"` (REST) or `"grpc://host:8500"`.
        labels: List of the class names; `None` for the model's own. A server has none.
        preprocessing: `Preprocessing` of a model that does not normalize RGB of 0–255 itself.
        crop_fraction: Share of the resized picture that is kept; `None` for the model's own rule.
        signature: `"image"` to send pixels, `"bytes"` to send the files.
        scores: `"logits"` or `"probabilities"`, what a Keras file, or an ONNX file with one output,
            returns; `None` to find it out by its last activation or by the numbers.
        name: The model's name on a server.
        version: Integer, its version on a server; `None` for the newest.
        timeout: Seconds without an answer of a server after which a call fails.

    Returns:
        A `Classifier`, with the method `classify(paths, top=5)`.

    Raises:
        InputError: If the model or an argument does not fit.
    """
    source = str(source)
    if source.startswith(("http://", "https://")):
        where = {"url": source}
    elif source.startswith("grpc://"):
        where = {"grpc": source.removeprefix("grpc://")}
    else:
        where = {"path": source}
    model = open_any(**where, name=name, version=version, timeout=timeout)
    return Classifier(
        model,
        labels,
        preprocessing,
        crop_fraction=crop_fraction,
        signature=signature,
        scores=scores,
    )


def _check_precision(precision, calibration=True):
    if precision not in exporter.SAMPLES:
        raise InputError(
            f"precision={precision!r}: expected one of {', '.join(map(repr, exporter.SAMPLES))}"
        )
    if precision == "int8" and calibration is None:
        raise InputError("precision='int8': give calibration images, others than images")


def _source(
    model,
    images,
    labels,
    calibration,
    preprocessing,
    as_pixels=False,
    class_names=None,
    scores=None,
    **options,
):
    """Returns the source of a Keras model and arrays; `as_pixels` are RGB of 0–255."""
    devices.share_gpu()
    if isinstance(model, keras.Model):
        name, model = f"{model.name}.keras", keras_models.in_float32(model)
    else:
        name, model = Path(model).name, keras_models.load(model)
    where = {"name": name, "folder": Path()}
    shape = keras_models.image_shape(model)
    if isinstance(images, dict) or shape is None:
        given = {
            "preprocessing": preprocessing is not None,
            "labels": labels is not None,
            "class names": class_names is not None,
            "scores": scores is not None,
            "calibration": calibration is not None,
        }
        tensors.refuse_of_classifiers(name, given)
        if not isinstance(images, dict):
            taken = keras_models.inputs(model)
            if len(taken) != 1:
                names = ", ".join(tensor.name for tensor in taken)
                raise InputError(f"{name} has the inputs {names}: give a dictionary of arrays")
            images = {taken[0].name: images}
        arrays = {key: np.asarray(value) for key, value in images.items()}
        return tensors.of_model(model, arrays, fold=options["fold"], **where)
    if scores is not None:
        check_name("kind of scores", scores, SCORES)
    images = _images("images", images, shape)
    if calibration is not None:
        calibration = _images("calibration", calibration, shape)
    if as_pixels:
        _check_pixels(images)
    if labels is not None:
        labels = _labels(labels, len(images))
    source = keras_source.of_model(
        model,
        keras_source.of_arrays(images, labels, calibration),
        normalize=preprocessing,
        class_names=class_names,
        scores=scores,
        **where,
        **options,
    )
    if isinstance(source, tensors.TensorSource):
        given = {"labels": labels is not None, "calibration": calibration is not None}
        tensors.refuse_of_classifiers(name, given)
    return source


def _images(what, given, shape):
    """Returns images as an array, whatever holds them; InputError if they do not fit a shape."""
    images = _numbers(what, given, "biuf")
    if not fits((None, *shape), images.shape):
        expected = ", ".join(str(n or "any") for n in shape)
        raise InputError(f"{what} of shape {list(images.shape)}: expected [N, {expected}]")
    if not len(images):
        raise InputError(f"{what}: expected one image or more")
    return images


def _refuse_same(images, calibration):
    """Raises an InputError if all calibration images are among the images of the verification."""

    def digests(some):
        return {hashlib.sha256(np.float32(image).tobytes()).digest() for image in some}

    if digests(calibration) <= digests(images):
        raise InputError(
            "calibration: all of its images are among images. Give others, such as training "
            "images: int8 is verified on images that its ranges are not measured on"
        )


def _labels(given, count):
    """Returns the labels of `count` images as an array; InputError if they do not fit."""
    labels = _numbers("labels", given, "biu")
    if labels.shape != (count,):
        raise InputError(f"labels of shape {labels.shape}: expected integers of shape ({count},)")
    if labels.min() < 0:
        raise InputError(f"labels: received {labels.min()}, expected integers from 0")
    return labels.astype(np.int64)


def _numbers(what, given, kinds):
    """Returns an array of one of the kinds of dtype; InputError if it is none."""
    try:
        array = np.asarray(given)
    except (TypeError, ValueError) as error:  # rows of different lengths, a tensor on a GPU
        raise InputError(f"{what}: expected a NumPy array ({one_line(error)})") from None
    if array.dtype.kind not in kinds:
        expected = "numbers" if "f" in kinds else "integers"
        raise InputError(f"{what} of dtype {array.dtype}: expected {expected}")
    return array


def _check_pixels(images):
    low, high = float(np.min(images)), float(np.max(images))
    if not (low >= 0 and 1 < high <= 255):  # NaN fits nothing
        raise InputError(
            f"images have values of {low:.3g} to {high:.3g}: expected RGB of 0 to 255. Say with "
            "preprocessing=Preprocessing('0..1') or such what the model takes, and give the images "
            "as they were before"
        )
