"""The classes of picture files: through any model of this package, local or on a server."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from export.runtime import local_models
from export.runtime.preprocessing import UNCHANGED
from export.runtime.signatures import IMAGE, IMAGE_BYTES, image_size
from export.runtime.single_output import SCORES
from training.cli import FailedError, InputError, check_name
from training.data import pictures
from training.data.sources import SIZE

BATCH_SIZE = 64
SIGNATURES = {"image": IMAGE, "bytes": IMAGE_BYTES}


def open_any(path=None, url=None, grpc=None, name="keras_nam", version=None, timeout=10.0):
    """Returns the model at a path, or on a server at a REST or gRPC address.

    `name`, `version` and `timeout` are passed to the client of the server.
    """
    if url:
        from export.runtime.rest import RestClient

        return RestClient(url, name, version, timeout)
    if grpc:
        from export.runtime.grpc_client import GrpcClient

        return GrpcClient(grpc, name, version, timeout)
    if version is not None:
        raise InputError(
            f"version {version} is for a server: give the folder of the version instead, such as "
            f"RUN/saved_model/{version}"
        )
    return local_models.open_model(path)


class Classifier:
    """A model, and how picture files are read for it.

    Args:
        model: A model of `local_models`, `rest` or `grpc_client`.
        labels: List of the class names; `None` for the model's own.
        preprocessing: `Preprocessing` of a model that does not normalize RGB of 0–255 itself.
        crop_fraction: See `pictures.Resize`; `None` for the model's own rule.
        rule: Path of a `preprocessing.json`, or `None` for the model's own rule.
        signature: A key of `SIGNATURES`: whether resized pixels are sent, or the files.
        scores: One of `SCORES`, what a model with one output returns; `None` to find it out.

    Raises:
        InputError: If the model does not classify pictures, or an argument does not fit it.
    """

    def __init__(
        self,
        model,
        labels=None,
        preprocessing=None,
        crop_fraction=None,
        rule=None,
        signature="image",
        scores=None,
    ):
        self.model = model
        self._labels = labels
        check_name("signature", signature, SIGNATURES)
        if scores is not None:
            check_name("kind of scores", scores, SCORES)
            if not hasattr(model, "kind"):
                raise InputError(
                    f"--scores {scores}: {model.source} returns {' and '.join(SCORES)}, each by "
                    "its name. Leave the option out."
                )
            model.kind = scores
        wanted = SIGNATURES[signature]
        options = [str(preprocessing)] if preprocessing else []
        options += ["--crop-fraction"] if crop_fraction else []
        options += ["--preprocessing"] if rule else []
        if options and wanted is not IMAGE:
            raise InputError(f"{options[0]}: pixels are sent with --signature image only")
        own = local_models.read_rule(rule) if rule else model.rule
        usual = own[:2] if own else SIZE
        size = image_size(model.signatures(), wanted, model.source, usual)
        if wanted is IMAGE_BYTES:
            self.read = pictures.read_encoded
            return
        # Only a .keras file, or a file of others, may take pixels in another range than 0–255.
        form = preprocessing or getattr(model, "preprocessing", UNCHANGED)
        if form is None:
            raise InputError(
                f"{model.source} does not say how pictures are normalized: give --mean and --std "
                "as in its training, or --input-range 0..255 if the model normalizes them itself "
                "(in Python: preprocessing=)"
            )
        if rule and own[:2] != size:
            raise InputError(
                f"{rule} is for images of {own.height}×{own.width}, and {model.source} takes "
                f"{size[0]}×{size[1]}: give the file that belongs to this model"
            )
        resize = pictures.Resize(*size, crop_fraction or (own and own.crop_fraction))
        self.read = lambda path: form(pictures.read(path, resize))

    def classify(self, paths, top=5):
        """Returns the most probable classes of picture files.

        Args:
            paths: List of paths.
            top: Integer, the number of classes a picture.

        Returns:
            A list with a dictionary for each picture: `image`, its path, and `top`, a list of
            `class` (integer), `label` (or `None`), `probability` and `logit`; or `error` instead
            of `top`, for a file that cannot be read.

        Raises:
            InputError: If the model refuses the pictures, or has other classes than the labels.
            FailedError: If its scores are not finite.
        """
        return list(self.predictions(paths, top))

    def predictions(self, paths, top, advance=lambda count: None):
        """Yields what `classify` returns, a batch of pictures at a time."""
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(paths), BATCH_SIZE):
                batch = paths[start : start + BATCH_SIZE]
                results = list(pool.map(self._attempt, batch))
                good = [picture for picture, error in results if error is None]
                if good:
                    encoded = isinstance(good[0], bytes)
                    scores = self.model.predict(good if encoded else np.stack(good))
                    labels = self._names(scores.logits.shape[1])
                    rows = zip(*scores, strict=True)
                for path, (_, error) in zip(batch, results, strict=True):
                    if error is not None:
                        yield {"image": path, "error": error}
                    else:
                        yield {"image": path, "top": self._top(top, labels, path, *next(rows))}
                advance(len(batch))

    def _attempt(self, path):
        try:
            return self.read(path), None
        except InputError as error:
            return None, str(error)

    def _names(self, classes):
        """Returns the names of the classes, `None` for each if they are not known."""
        labels = self._labels or self.model.labels
        if labels is None:
            return [None] * classes
        if len(labels) != classes:
            raise InputError(
                f"{self.model.source} has {classes} classes, and there are {len(labels)} class "
                "names: give the names of this model's classes with --labels"
            )
        return labels

    def _top(self, count, labels, path, logits, probabilities):
        if not (np.isfinite(logits).all() and np.isfinite(probabilities).all()):
            raise FailedError(
                f"{self.model.source} returns NaN or infinity for {path}: the model is broken"
            )
        return [
            {
                "class": int(i),
                "label": labels[i],
                "probability": float(probabilities[i]),
                "logit": float(logits[i]),
            }
            # By the logits: an int8 model's probabilities have steps of 1/256.
            for i in np.argsort(-logits, kind="stable")[:count]
        ]
