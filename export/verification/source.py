"""What is exported: a SavedModel, the reference that it must equal, and data to verify it on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from export.runtime import devices
from export.runtime.local_models import labels_in, rule_in, version_folder
from export.runtime.preprocessing import OPTIONS, UNCHANGED, Preprocessing
from export.verification.classifier import classifier
from training import jobs
from training.cli import InputError
from training.data import datasets, sources, streams
from training.fitting import network
from training.runs import files, report

BATCH_SIZE = 64
LISTED = 5  # names in a message
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
        dataset = _load(**{**self.job.data, "data_dir": data_dir})
        names, found = self.config.get("class_names"), dataset.class_names
        classes = self.model.output_shape[-1]
        if classes != len(found) or names not in (None, found):
            other = sorted({*found} ^ {*(names or found)})
            raise InputError(
                f"{self.folder} has {classes} classes and {dataset.source} {len(found)}"
                f"{'; different: ' + ', '.join(other[:LISTED]) if other else ''}. Name the folder "
                "of the run's own data with --data-dir"
            )
        return self._tested_in_training(dataset)

    def _tested_in_training(self, dataset):
        """Returns a folder's data set with the test pictures that the run was tested on."""
        if not self.tested:
            return dataset
        test = [row for row in dataset.listing if row[0] == "test"]
        same = [index for index, row in enumerate(test) if row in self.tested]
        if not same:
            raise InputError(
                f"{self.folder} was tested on {len(self.tested)} pictures, none of which is in "
                f"{dataset.source}. Name the folder of the run's own data with --data-dir"
            )
        return replace(dataset, test=dataset.test.take(np.array(same)))

    @property
    def tested(self):
        """Set of rows (part, name, digest) of the test pictures; empty without `data.csv`."""
        return {row for row in files.read_listing(self.folder) if row[0] == "test"}


@dataclass(frozen=True)
class Source:
    """A SavedModel and the reference that its exports must equal.

    Attributes:
        saved_model: Path of the version's folder.
        classify: The SavedModel's `classifier`.
        true_logits: Callable, image float32 [N, H, W, 3] in 0–255 to logits: the reference. It is
            the run's Keras model in float32, or without a run the SavedModel itself.
        truth: Description of the reference.
        class_names: List of strings, by label, or `None`.
        dataset: A `training.data.datasets.Dataset`.
        run: A `Run`, or `None`.
        preprocessing: `Preprocessing` before the SavedModel; `None` if the user stated none.
        no_labels: Why the data set's labels do not fit this classifier, or `None`.
    """

    saved_model: Path
    classify: Callable
    true_logits: Callable
    truth: str
    class_names: list | None
    dataset: datasets.Dataset
    run: Run | None = None
    preprocessing: Preprocessing | None = UNCHANGED
    no_labels: str | None = None

    @property
    def name(self):
        """The SavedModel's path in its run, or its folder's name, without the machine's folders."""
        folder = self.saved_model.resolve()
        return str(folder.relative_to(self.run.folder.resolve())) if self.run else folder.name

    @property
    def folder(self):
        """The folder for exports: the run's, or the one that the SavedModel is in."""
        return self.run.folder if self.run else self.saved_model.parent

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
            lost = self.tested - len(self.dataset.test)
            line = f"{lost} of {self.tested} test pictures have changed, and are left out."
            return [line] if lost else []
        lines = ["The SavedModel belongs to no run: the exported file is compared with it alone."]
        if self.preprocessing:
            lines.append(f"Pixels of 0–255 are converted as stated: {self.preprocessing}.")
        else:
            lines.append(
                "Normalization was not stated: the model gets pixels of 0–255 unchanged. If it "
                f"takes others, give {OPTIONS}."
            )
        if self.no_labels:
            lines.append(f"Accuracy was not checked: {self.no_labels}.")
        return lines

    def evaluate(self, images, advance=lambda count: None):
        """Returns the reference's logits of images [N, H, W, 3]: float32 [N, classes].

        The images are uint8, an array or `store.Images`. `advance` is called with the number of
        images after each batch.
        """
        return in_batches(lambda batch: self.true_logits(tf.constant(batch)), images, advance)

    def rounding(self, images):
        """Returns the largest difference of the reference's logits from float64; 0 without a run.

        Networks of 150 layers may differ by more than the tolerance in float32 alone.
        """
        if self.run is None:
            return 0.0
        images = images[:BATCH_SIZE]
        exact = network.with_dtype(self.run.model, "float64")
        normalized = streams.normalize(images, self.run.mean, self.run.std)
        logits = exact(tf.cast(normalized, tf.float64), training=False)
        return float(np.abs(self.evaluate(images) - logits).max())


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
        folder = version.parent.parent
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
    """Returns a data set; of a folder, no picture is read yet."""
    return datasets.load(name, **{**options, "cache": "none"})


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
    names, known = labels_in(assets), dataset.class_names
    blank = np.zeros((1, *classify.image_shape), np.float32)
    classes = classify(blank)["logits"].shape[-1]
    if names and len(names) != classes:
        raise InputError(f"{folder}: labels.txt has {len(names)} names for {classes} classes")
    no_labels = None
    if classes != len(known):
        no_labels = f"the model has {classes} classes, and the data set {len(known)}"
    elif names and sorted(names) != sorted(known):
        no_labels = "the model's labels.txt has other class names than the data set"
    elif names and names != known:
        order = np.array([names.index(name) for name in known])
        test = replace(dataset.test, labels=order[dataset.test.labels])
        dataset = replace(dataset, test=test, class_names=names)
    return Source(
        saved_model=folder,
        classify=classify,
        true_logits=lambda image: classify(image)["logits"],
        truth="the SavedModel alone, which belongs to no run",
        class_names=names,
        dataset=dataset,
        preprocessing=preprocessing,
        no_labels=no_labels,
    )


def _of_run(folder, version, data_dir):
    run = open_run(folder)
    dataset = run.dataset(data_dir)
    version = version or version_folder(folder)
    classify = classifier(version)

    @tf.function(input_signature=classify.input_signature)
    def true_logits(image):
        return run.model(streams.normalize(image, run.mean, run.std), training=False)

    return Source(
        saved_model=version,
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
