"""The `Source` of a Keras model that belongs to no run: of a file, or of a Python program."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from export.runtime import devices
from export.runtime.local_models import read_labels
from export.runtime.preprocessing import UNCHANGED
from export.runtime.signatures import fits
from export.verification import keras_models, tensors
from export.verification.source import Source, fit_labels
from training.cli import InputError
from training.data import datasets, folder, sources
from training.data.pictures import Resize
from training.runs.saved_model import Served

HELD_OUT = 0.5  # of a folder's pictures, where others are needed to measure ranges
OWN_OPTIONS = ("images", "inputs", "labels", "scores", "image_size", "crop_fraction", "custom")


def refuse_options(args, *allowed):
    """Raises an InputError for an option that only `--keras` has."""
    given = [name for name in OWN_OPTIONS if getattr(args, name) is not None]
    if not args.fold and "no_fold" not in allowed:
        given.append("no_fold")
    if given:
        raise InputError(f"--{given[0].replace('_', '-')} is for --keras FILE only")


def open_file(args, stated):
    """Returns the source of `--keras FILE`, with the data of the other options.

    Args:
        args: Parsed options of an exporter.
        stated: The `Preprocessing` of the options, or `None`.

    Raises:
        InputError: If the model, the data or an option does not fit.
    """
    devices.share_gpu()
    _refuse_ignored(args, stated)
    path = Path(args.keras)
    model = keras_models.load(path, args.custom)
    where = {"name": path.name, "folder": path.with_suffix(""), "fold": args.fold}
    if args.inputs:
        return tensors.of_model(model, tensors.read(args.inputs), **where)
    shape = keras_models.image_shape(model)
    if shape is None:
        taken = ", ".join(f"{i.name} {list(i.shape)}" for i in keras_models.inputs(model))
        raise InputError(
            f"{path} takes {taken}: expected one image [None, height, width, 3]. For other models "
            "give an array for each input with --inputs FILE.npz"
        )
    dataset = _dataset(args, _size(args.image_size, shape, path))
    return of_model(
        model,
        dataset,
        model_file=path,
        normalize=stated,
        class_names=read_labels(args.labels) if args.labels else None,
        scores=args.scores,
        **where,
    )


def _refuse_ignored(args, stated):
    """Raises an InputError for an option that another one makes useless, or for missing data."""
    if not (args.images or args.inputs or args.dataset):
        raise InputError(
            "--keras needs data to verify the file on: --images FOLDER, --inputs FILE.npz, or "
            "--dataset NAME"
        )
    of_pictures = {"labels", "scores", "image_size", "crop_fraction", "dataset", "data_dir"}
    ignored = of_pictures if args.inputs else {"dataset", "data_dir"} if args.images else set()
    given = [f"--{name.replace('_', '-')}" for name in sorted(ignored) if getattr(args, name)]
    if args.inputs and stated:
        given.append(str(stated))
    if given:
        raise InputError(
            f"{given[0]} has no effect with {'--inputs' if args.inputs else '--images'}: leave one "
            "of them out"
        )


def _size(given, shape, path):
    """Returns the (height, width) of the images."""
    fixed = shape[:2]
    if given is None:
        return tuple(own or usual for own, usual in zip(fixed, sources.SIZE, strict=True))
    size = given[0], given[-1]
    if len(given) > 2 or min(size) < 1:
        raise InputError(f"--image-size {given}: expected one or two numbers of 1 or more")
    if not fits(fixed, size):
        raise InputError(
            f"--image-size {size[0]} {size[1]}: {path} takes images of {fixed[0]}×{fixed[1]}. "
            "Leave the option out."
        )
    return size


def _dataset(args, size):
    read = {
        "image_size": size,
        "crop_fraction": args.crop_fraction,
        "usual_crop": None,
        "cache": "none",
    }
    if args.images is None:
        return datasets.load(args.dataset, args.data_dir, **read)
    share = 1.0 if args.precision == "float32" else HELD_OUT
    options = sources.Options(test_split=share, **read)
    return datasets.of_loaded(args.images, folder.load_any(args.images, options), options)


def of_arrays(images, labels, calibration):
    """Returns the `Dataset` of arrays [N, H, W, 3] in 0–255; only `images` may not be `None`."""
    calibration = images if calibration is None else calibration
    unknown = np.zeros(len(images), np.int64)
    return datasets.Dataset(
        name="arrays",
        train=datasets.Split(calibration, np.zeros(len(calibration), np.int64)),
        validation=None,
        test=datasets.Split(images, unknown if labels is None else np.asarray(labels)),
        class_names=[] if labels is None else None,
        source="the given arrays",
        resize=Resize(*images.shape[1:3]),
        listing=[],
        warnings=[],
    )


def of_model(
    model,
    dataset,
    name,
    folder,
    model_file=None,
    normalize=None,
    class_names=None,
    scores=None,
    fold=True,
    keep_activation=False,
):
    """Returns the source of a Keras model: a `Source` of a classifier, else a `TensorSource`.

    Args:
        model: A float32 `keras.Model` that takes one image.
        dataset: A `Dataset` with images of the model's size.
        name: String.
        folder: Path for the exports.
        model_file: Path of the model's file, or `None`.
        normalize: The `Preprocessing` before it; `None` if it is not stated.
        class_names: List of strings by label; `None` for the data set's, if there are as many.
        scores: `"logits"` or `"probabilities"`, what it returns; `None` to find out.
        fold: Whether the normalizations are folded.
        keep_activation: See `keras_models.head`.

    Raises:
        InputError: If something does not fit.
    """
    stated, normalize = normalize is not None, normalize or UNCHANGED
    batch = normalize(dataset.test.images[: keras_models.PROBE].astype(np.float32))
    head = keras_models.head(model, batch, scores, keep_activation)
    if head is None:
        given = {
            "preprocessing": stated,
            "class names": class_names is not None,
            # Several labels are probabilities that do not sum to 1.
            "scores": scores == "logits",
        }
        tensors.refuse_of_classifiers(name, given)
        (taken,) = keras_models.inputs(model)
        images = dataset.test.images[: tensors.MOST].astype(np.float32)
        return tensors.of_model(model, {taken.name: images}, name=name, folder=folder, fold=fold)
    shape = keras_models.image_shape(model)
    served, folding = keras_models.folded(head.model) if fold else (head.model, "Not folded.")
    module = Served(served, dataset.resize, normalize, head.to_scores, shape)
    signature = [tf.TensorSpec([None, *shape], tf.float32, name="image")]

    @tf.function(input_signature=signature)
    def classify(image):
        return module.functions["serving_default"](image)

    classify.loaded = module
    classify.network = lambda image: head.to_scores(head.model(image, training=False))
    classify.kind = head.kind
    classify.image_shape = dataset.test.images.shape[1:]

    @tf.function(input_signature=signature)
    def true_logits(image):
        return head.to_scores(head.model(normalize(image), training=False))["logits"]

    classes = head.to_scores(head.model(batch, training=False))["logits"].shape[-1]
    fitted, no_labels = fit_labels(dataset, class_names, classes, name)
    remarks = [head.note, folding]
    if class_names is None and dataset.class_names and no_labels is None:
        class_names = dataset.class_names
        remarks.append(
            "Class names are the data set's, in its order, because no labels were given."
        )
    return Source(
        name=name,
        folder=folder,
        classify=classify,
        true_logits=true_logits,
        truth=keras_models.TRUTH,
        class_names=class_names,
        dataset=fitted,
        model=head.model,
        model_file=model_file,
        normalize=normalize,
        to_scores=head.to_scores,
        stated=stated,
        no_labels=no_labels,
        remarks=remarks,
    )
