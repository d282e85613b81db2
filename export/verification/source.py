"""What is exported: a classifier, the reference that it must equal, and data to verify it on."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from export.runtime import devices
from export.runtime.local_models import labels_in, rule_in, version_folder
from export.runtime.preprocessing import OPTIONS, UNCHANGED, Preprocessing
from export.verification import keras_models
from export.verification.classifier import classifier
from training import jobs
from training.cli import InputError
from training.data import datasets, sources
from training.fitting import network
from training.runs import files, report
from training.runs.saved_model import labels, scores

BATCH_SIZE = 64
CONFIG_KEYS = ("arch", "dataset", "validation_split", "seed", "precision", "recipe_settings")


@dataclass(frozen=True)
class Run:
    """A run: the Keras model that it trained, and how images are made for it."""

    folder: Path
    model: keras.Model  # float32, its normalizations unfolded
    job: jobs.Job
    top1: float | None  # `None` if the run is unfinished
    config: dict

    @property
    def mean(self):
        """Of R, G and B, 0–1."""
        return self.job.recipe.mean

    @property
    def std(self):
        """Likewise."""
        return self.job.recipe.std

    def dataset(self, data_dir=None):
        """Returns the run's data set, whose pictures are read when they are asked for.

        Raises:
            InputError: If it is missing, or has other classes than the run.
        """
        classes = self.model.output_shape[-1]
        return datasets.of_run(self.folder, self.job, self.config, classes, data_dir)

    @property
    def tested(self):
        """Set of rows (part, name, digest) of the test pictures; empty without `data.csv`."""
        return {row for row in files.read_listing(self.folder) if row[0] == "test"}


@dataclass(frozen=True)
class Source:
    """A classifier and the reference that its exports must equal.

    Attributes:
        name: Its path in its run, or the name of its file or folder, without the machine's folders.
        folder: Path of the folder for its exports.
        classify: `tf.function`, which the exporters convert; see `classifier`.
        true_logits: Callable, image float32 [N, H, W, 3] in 0–255 to logits: the reference. It is
            the Keras model in float32, or without one the SavedModel itself.
        truth: Description of the reference.
        class_names: List of strings, by label, or `None`.
        dataset: A `training.data.datasets.Dataset`.
        saved_model: Path of the SavedModel's folder; `None` for a Keras model of no run.
        model: The Keras model in float32, unfolded; `None` for a SavedModel of no run.
        model_file: Path of its file, or `None`.
        normalize: `Preprocessing` before the Keras model.
        to_scores: Function of the Keras model's outputs to a dictionary with `logits`.
        run: A `Run`, or `None`.
        stated: Whether the user stated a normalization; a run has its own.
        no_labels: Why the data set's labels do not fit this classifier, or `None`.
        remarks: What else a user must know, a list of sentences.
    """

    name: str
    folder: Path
    classify: Callable
    true_logits: Callable
    truth: str
    class_names: list | None
    dataset: datasets.Dataset
    saved_model: Path | None = None
    model: keras.Model | None = None
    model_file: Path | None = None
    normalize: Preprocessing = UNCHANGED
    to_scores: Callable = scores
    run: Run | None = None
    stated: bool = True
    no_labels: str | None = None
    remarks: list = field(default_factory=list)

    @property
    def data_name(self):
        """Name of the data set, without the folder that it is in."""
        return self.dataset.source.partition(" in ")[0]

    @property
    def tested(self):
        """Number of images that the accuracy in `result.json` is of."""
        return len((self.run and self.run.tested) or self.dataset.test)

    @property
    def notes(self):
        """List of lines that a user must know about the verification."""
        if self.run:
            return list(self.dataset.warnings)
        lines = [*self.dataset.warnings, *self.remarks]
        if self.stated:
            lines.append(f"Pixels of 0–255 are converted as stated: {self.normalize}.")
        else:
            lines.append(
                "Normalization was not stated: the model gets pixels of 0–255 unchanged. If it "
                f"takes others, give {OPTIONS}."
            )
        if self.no_labels:
            lines.append(f"Accuracy was not checked: {self.no_labels}.")
        return lines

    @property
    def identity(self):
        """Dictionary of hashes and settings that identify what was verified, for the report."""
        names = self.class_names
        found = {
            "saved_model_sha256": self.saved_model and _digest_of_folder(self.saved_model),
            "keras_model_sha256": self.model_file and files.sha256(self.model_file),
            "data_sha256": _digest_of(self.dataset),
            "class_names_sha256": names and hashlib.sha256(labels(names)).hexdigest(),
            "normalization": str(self.normalize),
        }
        return {key: value for key, value in found.items() if value}

    def evaluate(self, images, advance=lambda count: None):
        """Returns the reference's logits of images [N, H, W, 3]: float32 [N, classes].

        The images are uint8, an array or `store.Images`. `advance` is called with the number of
        images after each batch.
        """
        return in_batches(lambda batch: self.true_logits(tf.constant(batch)), images, advance)

    def rounding(self, images):
        """Returns the largest difference of the reference's logits from float64.

        Networks of 150 layers may differ by more than the tolerance in float32 alone. It is 0
        without a Keras model.
        """
        if self.model is None:
            return 0.0
        images = images[:BATCH_SIZE]
        exact = keras_models.rebuilt(self.model, ["float32"], "float64")
        normalized = self.normalize(images.astype(np.float32))
        found = self.to_scores(exact(tf.cast(normalized, tf.float64), training=False))
        return float(np.abs(self.evaluate(images) - found["logits"]).max())


def _digest_of(dataset):
    """Returns the hash of the test images and labels, or of a folder's list of pictures."""
    if dataset.listing:
        return dataset.listing_hash
    test = dataset.test
    digest = hashlib.sha256(np.ascontiguousarray(test.images))
    digest.update(np.ascontiguousarray(test.labels, np.int64))
    return digest.hexdigest()


def _digest_of_folder(folder):
    """Returns the hash of a SavedModel's graph and variables."""
    stored = [folder / "saved_model.pb", *sorted((folder / "variables").glob("*"))]
    return hashlib.sha256("".join(map(files.sha256, stored)).encode()).hexdigest()


def in_batches(function, images, advance=lambda count: None):
    """Returns `function` of float32 batches of `images` as one array; see `Source.evaluate`."""
    found = []
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE].astype(np.float32)
        found.append(np.asarray(function(batch)))
        advance(len(batch))
    return np.concatenate(found)


def open_source(run=None, saved_model=None, data_dir=None, dataset="cifar100", preprocessing=None):
    """Opens what is to be exported.

    Args:
        run: Path of a run folder, or `None`.
        saved_model: Path of a SavedModel, or of the folder of its versions; one inside a run's
            folder belongs to that run. With neither, the newest finished run is taken.
        data_dir: Folder of the data set, or `None`.
        dataset: The data set for a SavedModel that belongs to no run.
        preprocessing: The `Preprocessing` of a SavedModel that belongs to no run, or `None` if it
            is not stated.

    Raises:
        InputError: If it does not exist, or is of another kind or version, or its data are not
            found.
    """
    devices.share_gpu()
    if saved_model is None:
        folder, version = Path(run) if run else files.newest_finished(), None
    else:
        version = version_folder(Path(saved_model))
        folder = Path(os.path.normpath(version / "../.."))  # also of "." and "1"
    if saved_model is not None and not files.is_finished(folder):
        source = _of_no_run(version, dataset, data_dir, preprocessing)
    elif preprocessing is not None:
        raise InputError(
            f"{preprocessing}: {folder} is a run, whose SavedModel normalizes the pixels itself. "
            f"Leave out {OPTIONS}."
        )
    else:
        source = _of_run(folder, version, data_dir)
    expected, found = source.classify.image_shape, source.dataset.test.images.shape[1:]
    if expected != found:
        raise InputError(
            f"{source.saved_model} takes images of {expected}, and the run {found}: write it again "
            "with python export/to_savedmodel.py"
        )
    return source


def _load(name, **options):
    """Returns a data set, whose pictures are neither read yet nor cropped without a rule."""
    return datasets.load(name, cache="none", usual_crop=None, **options)


def _of_no_run(folder, name, data_dir, preprocessing):
    assets = folder / "assets"
    # The size of a set of arrays, for a model that takes any size.
    own = _load(name, data_dir=data_dir).image_shape[:2] if name in sources.DATASETS else None
    classify = classifier(folder, preprocessing or UNCHANGED, own or sources.SIZE)
    rule = rule_in(assets)
    dataset = _load(
        name,
        data_dir=data_dir,
        image_size=classify.image_shape[:2],
        crop_fraction=rule and rule.crop_fraction,
    )
    names = labels_in(assets)
    blank = np.zeros((1, *classify.image_shape), np.float32)
    dataset, no_labels = fit_labels(dataset, names, classify(blank)["logits"].shape[-1], folder)
    return Source(
        name=folder.resolve().name,
        folder=folder.parent,
        saved_model=folder,
        classify=classify,
        true_logits=lambda image: classify(image)["logits"],
        truth="the SavedModel alone, which belongs to no run",
        class_names=names,
        dataset=dataset,
        normalize=preprocessing or UNCHANGED,
        stated=preprocessing is not None,
        no_labels=no_labels,
        remarks=["The SavedModel belongs to no run: the exported file is compared with it alone."],
    )


def fit_labels(dataset, names, classes, model):
    """Returns a data set with the labels of a model, and why its own do not fit, or `None`.

    Args:
        dataset: A `Dataset`.
        names: List of the model's class names, or `None`.
        classes: Number of the model's classes.
        model: Its name, for messages.

    Raises:
        InputError: If there are not so many names.
    """
    known, highest = dataset.class_names, dataset.test.labels.max()
    if names and len(names) != classes:
        raise InputError(f"{model}: {files.LABELS} has {len(names)} names for {classes} classes")
    if known is None:  # the labels are the model's own
        if not 0 <= highest < classes:
            raise InputError(f"{model} has {classes} classes: received the label {highest}")
        return dataset, None
    if not known:
        return dataset, "the labels of the pictures are not known"
    if names and set(known) <= set(names):
        order = np.array([names.index(name) for name in known])
        test = replace(dataset.test, labels=order[dataset.test.labels])
        return replace(dataset, test=test, class_names=names), None
    if classes != len(known):
        return dataset, f"the model has {classes} classes, and the data set {len(known)}"
    if names:
        return dataset, f"the model's {files.LABELS} has other class names than the data set"
    return dataset, None


def _of_run(folder, version, data_dir):
    run = open_run(folder)
    dataset = run.dataset(data_dir)
    version = version or version_folder(folder)
    classify = classifier(version)

    normalize = Preprocessing("0..1", tuple(run.mean), tuple(run.std))

    @tf.function(input_signature=classify.input_signature)
    def true_logits(image):
        return run.model(normalize(image), training=False)

    return Source(
        name=os.path.relpath(version, run.folder),
        folder=run.folder,
        saved_model=version,
        model=run.model,
        model_file=run.folder / "best.keras",
        normalize=normalize,
        classify=classify,
        true_logits=true_logits,
        truth="the run's Keras model in float32",
        class_names=dataset.class_names,
        dataset=dataset,
        run=run,
    )


def open_run(folder, finished=True):
    """Returns the `Run` in a folder, which must be `finished`; InputError if it cannot be used."""
    report.check_backend()
    folder = Path(folder)
    if finished and not files.is_finished(folder):
        raise InputError(
            f"{folder} is not a finished run: it has no result.json. Finish it with "
            "training/train.py --resume, or name another."
        )
    config = files.read_json(folder / "config.json")
    versions = config.get("environment", {}).get("versions", {})
    written_by = f"keras-nam {versions.get('keras-nam')} with Keras {versions.get('keras')}"
    if missing := [key for key in CONFIG_KEYS if key not in config]:
        raise InputError(
            f"{folder / 'config.json'} has no {', '.join(missing)}. It was written by "
            f"{written_by}: export it with that version."
        )
    try:
        model = report.load_model(folder / "best.keras")
    except InputError as error:
        raise InputError(f"{error} It was written by {written_by}.") from None
    return Run(
        folder=folder,
        model=network.with_dtype(model, "float32"),
        job=jobs.Job.from_config(config, folder),
        top1=float(files.read_json(folder / "result.json")["top1"]) if finished else None,
        config=config,
    )
