"""Measures how many augmented images per second the input pipeline delivers on the CPU.

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --pictures

The streams take turns in one process: the recipe's augmentation, the augmentation of `fast` (crop
and flip), none, and the nearest stock Keras layers, which are similar but not equal. All draw the
same images in the same order, and batch, normalize and prefetch them in the same way.

With --pictures they read a folder of JPEGs of 500×375 pixels, decode each in every epoch, and crop
and flip to 224×224: ours (random_resized_crop), and Keras' image_dataset_from_directory and layers.

Exit status: 0 done, 2 bad usage or bad input.
"""

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import report
from export.timing import rounds
from training import cli, recipes
from training.cli import InputError

LEAST_ROUNDS = 10
PACKAGES = ("tensorflow", "keras", "numpy")
DRAWS = 20  # batches per turn
TRAINING_IMAGES = 50_000
SIZE = 32  # pixels per side
PICTURES, PICTURE_SIZE, PICTURE_DRAWS = 600, (500, 375), 4
AUTOTUNE = -1  # of tf.data


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = report.Parser(__doc__, "input_pipeline")
    parser.add_argument(
        "--recipe",
        default="paddle",
        help=f"the augmentation: {', '.join(recipes.RECIPES)} (default: %(default)s)",
    )
    parser.add_argument("--pictures", action="store_true", help="read a folder of JPEGs")
    parser.add_number("batch-size", None, "images per batch (default: the recipe's)")
    parser.add_number("rounds", 30, "timed turns of each stream", LEAST_ROUNDS)
    parser.add_number("threads", os.cpu_count(), "threads of each stream")
    return parser


def main(argv=None):
    """Parses, measures, prints and writes."""
    args = parser().parse_args(argv)
    recipe = recipes.get(args.recipe, batch_size=args.batch_size)
    args.batch_size = recipe.batch_size
    with cli.needing("train"), tempfile.TemporaryDirectory() as folder:
        measured = measure(args, recipe, Path(folder))
        name = "input_pipeline_pictures" if args.pictures else "input_pipeline"
        report.write(args.output, name, measured, page(measured))


def measure(args, recipe, folder):
    """Returns the report, as JSON holds it."""
    from export.runtime.devices import prepare_tensorflow

    prepare_tensorflow("CPU", args.threads)
    if args.pictures:
        augmentations, streams, source = open_pictures(folder, recipe.batch_size)
        first, draws = "ours", PICTURE_DRAWS
    else:
        split, source = training_images()
        augmentations, streams = open_streams(split, args.recipe, recipe)
        check_alike(streams)
        first, draws = args.recipe, DRAWS
    iterators = {name: iter(stream) for name, stream in streams.items()}

    def draw(name, count):
        for _ in range(count):
            next(iterators[name])

    def restart():
        # Batches that were prefetched during the others' turns do not count.
        iterators.update({name: iter(stream) for name, stream in streams.items()})

    seconds = rounds.measure(
        {name: partial(draw, name) for name in streams},
        {draws * recipe.batch_size: draws},
        args.rounds,
        after_round=restart,
    )
    rows = rounds.summarize(seconds, baseline=first)
    return {
        **report.new_report(args, PACKAGES),
        "batches_per_turn": draws,
        "baseline": first,
        "data": source,
        "results": [{**row, "augmentations": augmentations[row["contender"]]} for row in rows],
    }


def open_pictures(folder, batch_size):
    """Returns the same for a folder of JPEGs, which it draws, and the folder's description."""
    import keras
    from PIL import Image

    from training.data import augment, datasets, streams

    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        path = folder / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8))
        pixels = np.asarray(coarse.resize(PICTURE_SIZE, Image.Resampling.BICUBIC)).astype(int)
        noisy = (pixels + rng.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path, quality=90)
    split = datasets.load(str(folder), image_size=(224, 224), cache="none").train
    names = ("random_resized_crop:flip=0.5",)
    how = (recipes.IMAGENET_MEAN, recipes.IMAGENET_STD, augment.compose(names))
    stock = keras.utils.image_dataset_from_directory(
        folder, batch_size=None, image_size=(256, 256), verbose=False
    )
    stock = stock.repeat().batch(batch_size)  # whole batches, as ours
    for layer in (keras.layers.RandomCrop(224, 224), keras.layers.RandomFlip("horizontal")):
        stock = stock.map(
            lambda images, labels, layer=layer: (layer(images, training=True), labels),
            AUTOTUNE,
        )
    return (
        {"ours": names, "keras": ("resize to 256×256", "RandomCrop", "RandomFlip")},
        {
            "ours": streams.training_stream(split, batch_size, *how),
            "keras": stock.prefetch(AUTOTUNE),
        },
        f"{PICTURES} drawn JPEGs of {PICTURE_SIZE[0]}×{PICTURE_SIZE[1]}, decoded each time",
    )


def open_streams(split, recipe_name, recipe):
    """Returns name -> names of augmentations, and name -> endless stream of a `datasets.Split`.

    All streams have the recipe's batch size, mean and deviation; its own stream is the first.
    """
    from training.data import augment, streams

    names = {recipe_name: recipe.augment, "fast": recipes.get("fast").augment, "none": ()}
    functions = {name: augment.compose(augmentations) for name, augmentations in names.items()}
    stock = stock_layers(recipe.augment)

    def apply_stock(images, seed, rows):  # the layers have their own generators
        for layer in stock:
            images = layer(images, training=True)
        return images

    names["keras"], functions["keras"] = [type(layer).__name__ for layer in stock], apply_stock
    how = (recipe.batch_size, recipe.mean, recipe.std)
    return {name: list(augmentations) for name, augmentations in names.items()}, {
        name: streams.training_stream(split, *how, function) for name, function in functions.items()
    }


def stock_layers(names):
    """Returns the nearest stock layers to augmentations, which `augment.parse` can name.

    Unlike ours, most of them change every image: they have no probability.
    """
    from keras import layers

    from training.data import augment

    stock = {
        "random_crop": lambda padding=4, mode="constant": layers.RandomTranslation(
            padding / SIZE, padding / SIZE, mode, "nearest"
        ),
        "random_flip": lambda: layers.RandomFlip("horizontal"),
        "random_brightness": lambda amount=0.1, **_: layers.RandomBrightness(amount),
        "random_contrast": lambda amount=0.1, **_: layers.RandomContrast(amount),
        "random_rotation": lambda degrees=15.0: layers.RandomRotation(
            degrees / 360, "constant", "nearest"
        ),
    }
    parsed = [augment.parse(name) for name in names]
    for function in parsed:
        cli.check_name("augmentation of stock Keras", function.func.__name__, stock)
    return [stock[function.func.__name__](**function.keywords) for function in parsed]


def check_alike(streams):
    """Raises an InputError unless the first batches hold the same images, as finite numbers."""
    first, *others = streams
    expected, expected_labels = next(iter(streams[first]))
    for name in others:
        images, labels = next(iter(streams[name]))
        alike = {
            "shape": images.shape == expected.shape,
            "dtype": images.dtype == expected.dtype,
            "labels": np.array_equal(labels, expected_labels),
            "finite numbers": np.isfinite(images).all(),
        }
        different = [what for what, equal in alike.items() if not equal]
        if different:
            raise InputError(f"the streams {first} and {name}: expected the same {different[0]}")


def training_images():
    """Returns CIFAR-100's training images, or as many synthetic ones, and their source.

    The time of an augmentation does not depend on the pixels' values.
    """
    from training.data import datasets

    folder = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    try:
        dataset = datasets.load("cifar100", folder)  # nothing is downloaded into a given folder
    except InputError:
        dataset = datasets.load("synthetic")
    repeated = np.arange(TRAINING_IMAGES) % len(dataset.train)
    return dataset.train.take(repeated), dataset.source


def page(measured):
    """Returns the report's paragraphs and its table."""
    rows = []
    for row in measured["results"]:
        times = row["milliseconds"]
        slow, middle, fast = (1e3 * row["batch"] / times[key] for key in ("p90", "median", "p10"))
        speed = f"{rounds.mark(times)}{middle:,.0f} ({slow:,.0f}–{fast:,.0f})"
        augmentations = " ".join(row["augmentations"]) or "–"
        rows.append([row["contender"], augmentations, speed, report.cell(row["speedup"], ".2f")])
    columns = ["stream", "augmentations", "images/s (p10–p90)"]
    numbers = [row[key] for row in measured["results"] for key in ("milliseconds", "speedup")]
    return [
        f"# Input pipeline: batch size {measured['batch_size']}, {measured['threads']} CPU threads",
        report.caption(measured),
        report.table([*columns, f"× {measured['baseline']} (p10–p90)"], rows, words=2),
        "The stock Keras layers are similar to the recipe's augmentations, not equal.",
        *rounds.noise_note(numbers),
    ]


if __name__ == "__main__":
    cli.run(main)
