"""Recipes: every setting of a training by one name. Each field is also a command-line option."""

import dataclasses
import math
from dataclasses import dataclass, field

from training.cli import InputError, check_name

IMAGE_SIZE = 32  # height and width, of CIFAR and so of the networks


def work(sizes):
    """Returns the work of training on an image of each of these sizes, in pixels: it grows so."""
    return sum(size**2 for size in sizes)


def _setting(default, text):
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Recipe:
    """The settings of a training, all but the network, the data set and the machine."""

    epochs: int = _setting(90, "passes over the training images")
    batch_size: int = _setting(256, "images a step, over all devices")
    learning_rate: float = _setting(0.01, "the schedule's peak")
    schedule: str = _setting("warmup_cosine", "warmup_cosine, step_decay or one_cycle")
    warmup_steps: int = _setting(2000, "steps of linear warm-up (warmup_cosine)")
    warmup_fraction: float = _setting(0.25, "share of the steps up to the peak (one_cycle)")
    milestones: tuple[int, ...] = _setting((60, 120, 160), "epochs of the decays (step_decay)")
    decay_factor: float = _setting(0.2, "factor of each decay (step_decay)")
    optimizer: str = _setting("sgd", "sgd, or muon for the kernels of the convolutions")
    kernel_rate: float = _setting(0.1, "angle of a kernel's step for a learning rate of 1 (muon)")
    momentum: float = _setting(0.9, "of the optimizer")
    nesterov: bool = _setting(False, "Nesterov's momentum")
    weight_decay: float = _setting(5e-4, "coupled L2, on all parameters (muon: not the kernels)")
    label_smoothing: float = _setting(0.0, "share of the target spread over all classes")
    gate_gradient: bool = _setting(True, "whether the gradient flows through NAM's weights")
    weighting: str = _setting("sum", "NAM's weights: sum, max, unnormalized, uniform or constant")
    gamma_penalty: float = _setting(0.0, "L1 on the gammas of the NAM layers (equation 4)")
    image_sizes: tuple[int, ...] = _setting(
        (IMAGE_SIZE,), "sizes of the training images, each for its share of the epochs, in turn"
    )
    augment: tuple = _setting(("random_crop", "random_flip"), "name[:option=value,…] …")
    mean: tuple[float, ...] = _setting((0.5071, 0.4865, 0.4409), "of R, G, B in 0–1")
    std: tuple[float, ...] = _setting((0.1942, 0.1918, 0.1958), "of R, G, B in 0–1")

    def image_size(self, epoch):
        """Returns the size of the training images of an epoch, counted from 0.

        Where they do not divide the epochs, the last one has the most; a single epoch is its.
        """
        left = self.epochs - 1 - epoch
        return self.image_sizes[-1 - left * len(self.image_sizes) // self.epochs]


PADDLE = Recipe(
    augment=(
        "random_crop",
        "random_brightness",
        "random_contrast",
        "random_flip",
        "random_rotation",
    ),
)
"""The reference article's (ResNet50-NAM reproduced in Paddle), the default.

Command: python training/train.py --arch r50_nam
Cost: 90 epochs; r50_nam takes 20 minutes an epoch on 2 CPU cores, so a GPU is what it is for.
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
"""The official PyTorch code's (github.com/Christian-lyc/NAM, train_cifar100.py).

There the penalty did nothing under DataParallel, which hides the layers that it looked for.
Mean and deviation are those of CIFAR-10, as there.

Command: python training/train.py --arch r50_nam --recipe official
Cost: 200 epochs, twice the default's images; one GPU.
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
Cost: see results/README.md for the minutes that were measured.
"""

PROGRESSIVE = dataclasses.replace(FAST, epochs=12, image_sizes=(16, 24, IMAGE_SIZE))
"""Ours, `fast` on small images first, which are cheap: more epochs in the same time.

That it pays was seen on a part of the training set, never the test set, with 6 epochs
(results/tuning). Not for nam_spatial and nam_full, whose parameters are bound to positions.

Command: python training/train.py --arch r18w32_nam --recipe progressive
Cost: 12 epochs; results/README.md has what 10 took on a slow CPU, at a peak rate of 0.8.
"""

SPRINT = dataclasses.replace(
    PROGRESSIVE,
    epochs=5,
    image_sizes=(16, 16, 16, 24, IMAGE_SIZE),
    optimizer="muon",
    augment=("random_flip",),
)
"""Ours, for 20 minutes on 2 CPU cores: Muon, and no random crop.

In so short a training each was better by points, on a part of the training set, never the test set
(results/README.md, Tuning).

Command: python training/train.py --arch r18w32_nam --recipe sprint
Cost: 20 minutes on 2 CPU cores at 110 images/s of 32 pixels; 63% (results/README.md).
"""

RECIPES = {
    "paddle": PADDLE,
    "official": OFFICIAL,
    "fast": FAST,
    "progressive": PROGRESSIVE,
    "sprint": SPRINT,
}

POSITIVE = ("epochs", "batch_size", "learning_rate", "decay_factor", "kernel_rate")
NOT_NEGATIVE = ("warmup_steps", "momentum", "weight_decay", "gamma_penalty")
# Those of keras_nam.attention.weighting, whose import would take the --help its second.
WEIGHTINGS = ("sum", "max", "unnormalized", "uniform", "constant")
SMALLEST = 8  # pixels, which the stages halve three times
SHARES = {"warmup_fraction": (0, 1), "label_smoothing": (0, 1)}


def get(name, **overrides):
    """Returns a recipe with some of its settings changed; those of value `None` are not.

    Raises:
        InputError: If there is no such recipe, or a setting is out of its range.
    """
    check_name("recipe", name, RECIPES)
    changes = {key: value for key, value in overrides.items() if value is not None}
    recipe = dataclasses.replace(RECIPES[name], **changes)
    check(recipe)
    return recipe


def check(recipe):
    """Raises an InputError at the first setting that is out of its range."""
    for key in POSITIVE:
        if not 0 < getattr(recipe, key) < math.inf:
            _refuse(recipe, key, "a number above 0")
    for key in NOT_NEGATIVE:
        if not 0 <= getattr(recipe, key) < math.inf:
            _refuse(recipe, key, "0 or more")
    for key, (low, high) in SHARES.items():
        if not low <= getattr(recipe, key) < high:
            _refuse(recipe, key, f"at least {low} and below {high}")
    if recipe.schedule == "one_cycle" and recipe.warmup_fraction == 0:
        _refuse(recipe, "warmup_fraction", "above 0 for the schedule one_cycle")
    for key in ("mean", "std"):
        if len(getattr(recipe, key)) != 3 or not all(map(math.isfinite, getattr(recipe, key))):
            _refuse(recipe, key, "three numbers, of R, G and B")
    if min(recipe.std) <= 0:
        _refuse(recipe, "std", "three numbers above 0")
    if min(recipe.milestones, default=1) <= 0:
        _refuse(recipe, "milestones", "epochs above 0")
    if min(recipe.image_sizes, default=0) < SMALLEST or recipe.image_sizes[-1] != IMAGE_SIZE:
        _refuse(
            recipe,
            "image_sizes",
            f"sizes of {SMALLEST} or more, and {IMAGE_SIZE}, which the network is for, as the last",
        )
    check_name("weighting", recipe.weighting, WEIGHTINGS)
    check_name("optimizer", recipe.optimizer, ("sgd", "muon"))
    check_name("schedule", recipe.schedule, ("warmup_cosine", "step_decay", "one_cycle"))


def _refuse(recipe, key, expected):
    option = "--" + key.replace("_", "-")
    raise InputError(f"{option} {getattr(recipe, key)}: expected {expected}.")
