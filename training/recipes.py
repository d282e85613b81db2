"""The recipes of a training, by name.

Each setting is also a command-line option, and an entry of a run's `config.json`.
"""

import dataclasses
import math
import re
from dataclasses import dataclass
from functools import partial

from training.cli import check_name
from training.settings import (
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Range,
    check,
    names_in,
    refuse,
    setting,
)

WEIGHTINGS = names_in("keras_nam.attention.weighting", "WEIGHTINGS")
SCHEDULES = names_in("training.fitting.schedules", "SCHEDULES")
OPTIMIZERS = names_in("training.fitting.optimizers", "OPTIMIZERS")
AUGMENTATIONS = names_in("training.data.augment", "AUGMENTATIONS")
SMALLEST = 8  # pixels, which the stages halve three times

AUTO, IMAGENET = ("auto",), ("imagenet",)  # in the place of three numbers
IMAGENET_CLASSES = 1000
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _are_three_numbers(values):
    return len(values) == 3 and all(isinstance(v, float | int) and math.isfinite(v) for v in values)


RGB = Range(
    "three numbers, of R, G and B, or auto, or imagenet",
    lambda values: values in (AUTO, IMAGENET) or _are_three_numbers(values),
)
POSITIVE_RGB = Range(
    "three numbers above 0, of R, G and B",
    lambda values: _are_three_numbers(values) and min(values) > 0,
)
EPOCHS = Range("epochs above 0", lambda values: min(values, default=1) > 0)
SIZES = Range(
    f"sizes of {SMALLEST} or more", lambda values: min(values, default=SMALLEST) >= SMALLEST
)
FREEZE = Range(
    "none, bn, backbone or stages:N",
    lambda value: re.fullmatch(r"none|bn|backbone|stages:[1-9]\d*", value),
)

_of_recipe = partial(setting, group="the recipe's settings (defaults: the recipe's)")


@dataclass(frozen=True)
class Recipe:
    """The settings of a training, except the network, the data set and the machine."""

    epochs: int = _of_recipe(90, "passes over the training images", POSITIVE, unit="EPOCHS")
    batch_size: int = _of_recipe(256, "images a step, over all devices", POSITIVE, unit="IMAGES")
    learning_rate: float = _of_recipe(0.01, "the schedule's peak", POSITIVE)
    schedule: str = _of_recipe("warmup_cosine", "", SCHEDULES)
    warmup_steps: int = _of_recipe(
        2000, "steps of linear warm-up (warmup_cosine)", NOT_NEGATIVE, unit="STEPS"
    )
    warmup_fraction: float = _of_recipe(
        0.25, "share of the steps up to the peak (one_cycle)", SHARE
    )
    milestones: tuple[int, ...] = _of_recipe(
        (60, 120, 160), "epochs of the decays (step_decay)", EPOCHS, unit="EPOCH"
    )
    decay_factor: float = _of_recipe(0.2, "factor of each decay (step_decay)", POSITIVE)
    optimizer: str = _of_recipe(
        "sgd",
        "muon: for the kernels of the convolutions; adamw: Keras', begun again at --freeze-epochs",
        OPTIMIZERS,
    )
    kernel_rate: float = _of_recipe(
        0.1, "angle of a kernel's step for a learning rate of 1 (muon)", POSITIVE, unit="RADIANS"
    )
    momentum: float = _of_recipe(0.9, "of sgd and muon", SHARE)
    nesterov: bool = _of_recipe(False, "Nesterov's momentum")
    weight_decay: float = _of_recipe(
        5e-4,
        "coupled L2, on all parameters (muon: except the kernels; adamw: decoupled)",
        NOT_NEGATIVE,
    )
    ema: float = _of_recipe(
        0.0,
        "momentum of the moving average of the weights, which is evaluated and exported; 0: off",
        SHARE,
    )
    patience: int = _of_recipe(
        0,
        "stop after so many epochs without a better top-1 on the validation split; 0: off",
        NOT_NEGATIVE,
        unit="EPOCHS",
    )
    freeze: str = _of_recipe(
        "none",
        "layers that are not trained: none; bn: the normalizations; stages:N: the stem and N "
        "stages; backbone: all except the attention and the classifier",
        FREEZE,
    )
    freeze_epochs: int = _of_recipe(
        0, "train all layers after so many epochs; 0: never", NOT_NEGATIVE, unit="EPOCHS"
    )
    label_smoothing: float = _of_recipe(0.0, "share of the target spread over all classes", SHARE)
    gate_gradient: bool = _of_recipe(True, "whether the gradient flows through NAM's weights")
    weighting: str = _of_recipe("sum", "NAM's weights", WEIGHTINGS)
    gain: float = _of_recipe(
        1.0, "factor of NAM's outputs; with 2 a gate of 0.5 changes nothing", POSITIVE
    )
    decay_exempt: tuple[str, ...] = _of_recipe(
        (), "no weight decay for the variables whose path contains one of these", unit="NAME"
    )
    gamma_penalty: float = _of_recipe(
        0.0, "L1 on the gammas of the NAM layers (equation 4)", NOT_NEGATIVE
    )
    progressive_sizes: tuple[int, ...] = _of_recipe(
        (),
        "sizes of the training images, each for its share of the epochs, in turn; the last is the "
        "network's",
        SIZES,
        unit="PIXELS",
    )
    augment: tuple[str, ...] = _of_recipe(
        ("random_crop", "random_flip"),
        f"name[:option=value,…] …, of {', '.join(AUGMENTATIONS)}, or Keras' layers, such as "
        "RandAugment:factor=0.5 MixUp:alpha=0.2",
    )
    mean: tuple[float, ...] = _of_recipe(
        (0.5071, 0.4865, 0.4409),
        "of R, G, B in 0–1; auto: mean and std of the training images; imagenet: ImageNet's",
        RGB,
        words=(*AUTO, *IMAGENET),
    )
    std: tuple[float, ...] = _of_recipe((0.1942, 0.1918, 0.1958), "of R, G, B in 0–1", POSITIVE_RGB)

    def image_size(self, epoch):
        """Returns the size of the training images of an epoch, counted from 0.

        If the sizes do not divide the epochs, the last size has the most epochs. Without sizes it
        is `None`: the network's.
        """
        if not self.progressive_sizes:
            return None
        left = self.epochs - 1 - epoch
        return self.progressive_sizes[-1 - left * len(self.progressive_sizes) // self.epochs]

    def has_full_size(self, epoch):
        """Whether the training images of an epoch, counted from 0, have the network's size."""
        return self.image_size(epoch) in (None, *self.progressive_sizes[-1:])

    @property
    def normalization(self):
        """Where `mean` and `std` are from: `"auto"`, `"imagenet"`, or `"numbers"` for any given."""
        return self.mean[0] if self.mean in (AUTO, IMAGENET) else "numbers"

    def is_frozen(self, epoch):
        """Whether layers are frozen in an epoch, counted from 0."""
        return self.freeze != "none" and (not self.freeze_epochs or epoch < self.freeze_epochs)

    def is_done(self, rows):
        """Whether a training with these rows of `history.csv` is at its end."""
        scores = [self.score(row) for row in rows if self.has_full_size(row["epoch"] - 1)]
        since_best = len(scores) - 1 - max(range(len(scores)), key=scores.__getitem__, default=0)
        stopped = self.patience and since_best >= self.patience
        return bool(rows) and (rows[-1]["epoch"] >= self.epochs or stopped)

    def score(self, row):
        """Returns the rank of an epoch by its row of `history.csv`: any of full size is better.

        Of one size it is the held-out top-1, or -inf if the evaluation was not finite.
        """
        is_finite = math.isfinite(row["val_top1"]) and math.isfinite(row["val_loss"])
        top1 = row["val_top1"] if is_finite else -math.inf
        return self.has_full_size(row["epoch"] - 1), top1

    def for_size(self, size):
        """Returns the recipe with its progressive sizes scaled, so that the last is `size`."""
        if self.progressive_sizes[-1:] in ((), (size,)):
            return self
        factor = size / self.progressive_sizes[-1] / 8
        smaller = [max(SMALLEST, 8 * round(factor * s)) for s in self.progressive_sizes]
        sizes = tuple(
            size if old == self.progressive_sizes[-1] else new
            for old, new in zip(self.progressive_sizes, smaller, strict=True)
        )
        return dataclasses.replace(self, progressive_sizes=sizes)


PADDLE = Recipe(
    augment=(
        "random_crop",
        "random_brightness",
        "random_contrast",
        "random_flip",
        "random_rotation",
    ),
)
"""The reference article's recipe (ResNet50-NAM reproduced in Paddle), the default.

Command: python training/train.py --arch r50_nam
Cost: 90 epochs, for a GPU. On 2 CPU cores an epoch of r50_nam takes 22 to 35 minutes.
"""

OFFICIAL = Recipe(
    epochs=200,
    batch_size=128,
    learning_rate=0.1,
    schedule="step_decay",
    gate_gradient=False,
    gamma_penalty=1e-4,
    mean=(0.49139968, 0.48215827, 0.44653124),
    std=(0.24703233, 0.24348505, 0.26158768),
)
"""The official PyTorch code's recipe (github.com/Christian-lyc/NAM, train_cifar100.py).

There the penalty did nothing under DataParallel, which hides the NAM layers from it. Mean and
deviation are CIFAR-10's, as there.

Command: python training/train.py --arch r50_nam --recipe official
Cost: 200 epochs, for a GPU.
"""

FAST = Recipe(
    epochs=20,
    batch_size=256,
    learning_rate=0.4,
    schedule="one_cycle",
    nesterov=True,
    label_smoothing=0.1,
    augment=("random_crop:mode=reflect", "random_flip"),
    std=(0.2673, 0.2564, 0.2762),
)
"""Ours, for a CPU or a tight budget; tuned on a part of the training set, never on the test set.

Command: python training/train.py --arch r18w16_nam --recipe fast
Cost: see results/README.md for measured times.
"""

PROGRESSIVE = dataclasses.replace(FAST, epochs=12, progressive_sizes=(16, 24, 32))
"""Ours: `fast` on small images first, which are cheap. So the same time has more epochs.

Chosen on a part of the training set, never on the test set, with 6 epochs (results/tuning). Not for
nam_spatial and nam_full, whose parameters are bound to positions.

Command: python training/train.py --arch r18w32_nam --recipe progressive
Cost: 12 epochs. results/README.md has the time of 10 on a slow CPU, at a peak rate of 0.8.
"""

SPRINT = dataclasses.replace(
    PROGRESSIVE,
    epochs=5,
    progressive_sizes=(16, 16, 16, 24, 32),
    optimizer="muon",
    augment=("random_flip",),
)
"""Ours, for 20 minutes on 2 CPU cores: Muon, and no random crop.

In so short a training each of the two raised the accuracy by points, on a part of the training set,
never on the test set (results/README.md, Tuning).

Command: python training/train.py --arch r18w32_nam --recipe sprint
Cost: 20 minutes on 2 CPU cores at 110 images/s of 32 pixels; 63% (results/README.md).
"""

FINETUNE = Recipe(
    epochs=20,
    batch_size=32,
    learning_rate=1e-3,
    warmup_steps=50,
    optimizer="adamw",
    weight_decay=0.05,
    label_smoothing=0.1,
    ema=0.99,
    augment=("random_resized_crop:flip=0.5", "RandAugment:factor=0.2"),
)
"""Ours, for pictures of your own, from given weights (`--init`). The values are usual ones; they
were not tuned.

Command: python training/train.py --dataset FOLDER --arch r18_nam --recipe finetune --init WEIGHTS
Cost: 20 epochs.
"""

RECIPES = {
    "paddle": PADDLE,
    "official": OFFICIAL,
    "fast": FAST,
    "progressive": PROGRESSIVE,
    "sprint": SPRINT,
    "finetune": FINETUNE,
}


def get(name, **overrides):
    """Returns a recipe with some of its settings changed; overrides of `None` are ignored.

    Raises:
        InputError: If the recipe is unknown, or a setting is out of its range.
    """
    check_name("recipe", name, RECIPES)
    changes = {key: value for key, value in overrides.items() if value is not None}
    return changed(RECIPES[name], **changes)


def changed(recipe, **changes):
    """Returns a recipe with these settings changed; InputError for one out of its range."""
    recipe = check(dataclasses.replace(recipe, **changes))
    if recipe.schedule == "one_cycle" and recipe.warmup_fraction == 0:
        refuse(recipe, "warmup_fraction", "above 0 for the schedule one_cycle")
    return recipe
