"""The recipes' numbers, what their settings may be, and the forms that the settings take."""

import dataclasses
import sys
import types

import numpy as np
import pytest

from keras_nam import attention, models
from keras_nam.attention import weighting
from training import jobs, recipes, settings, train
from training.cli import InputError
from training.data import augment, sources
from training.fitting import optimizers, schedules

OTHER = {
    "epochs": 3,
    "batch_size": 7,
    "learning_rate": 0.3,
    "schedule": "one_cycle",
    "warmup_steps": 5,
    "warmup_fraction": 0.125,
    "milestones": (1, 2),
    "decay_factor": 0.75,
    "optimizer": "muon",
    "kernel_rate": 0.125,
    "momentum": 0.5,
    "nesterov": True,
    "weight_decay": 0.25,
    "label_smoothing": 0.2,
    "ema": 0.75,
    "patience": 4,
    "freeze": "bn",
    "freeze_epochs": 2,
    "gate_gradient": False,
    "weighting": "max",
    "gain": 2.0,
    "decay_exempt": ("_nam",),
    "gamma_penalty": 0.125,
    "progressive_sizes": (16, 32),
    "augment": ("random_rotation:degrees=5",),
    "mean": (0.1, 0.2, 0.3),
    "std": (0.4, 0.5, 0.6),
}


def job_of(*words):
    return jobs.read_job(vars(train.parser().parse_args(words)))


def test_paddle_has_the_articles_numbers():
    recipe = recipes.get("paddle")
    assert (recipe.batch_size, recipe.epochs, recipe.learning_rate) == (256, 90, 0.01)
    assert (recipe.schedule, recipe.warmup_steps) == ("warmup_cosine", 2000)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, False, 5e-4)
    assert (recipe.gate_gradient, recipe.gamma_penalty, recipe.label_smoothing) == (True, 0, 0)
    assert recipe.mean == (0.5071, 0.4865, 0.4409)
    assert recipe.std == (0.1942, 0.1918, 0.1958)
    assert sorted(recipe.augment) == [
        "random_brightness",
        "random_contrast",
        "random_crop",
        "random_flip",
        "random_rotation",
    ]


def test_official_has_the_numbers_of_the_official_code():
    recipe = recipes.get("official")
    assert (recipe.batch_size, recipe.epochs, recipe.learning_rate) == (128, 200, 0.1)
    assert (recipe.schedule, recipe.milestones) == ("step_decay", (60, 120, 160))
    assert recipe.decay_factor == 0.2
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, False, 5e-4)
    assert (recipe.gate_gradient, recipe.gamma_penalty) == (False, 1e-4)
    assert recipe.augment == ("random_crop", "random_flip")


def test_our_recipes():
    fast, progressive, sprint = map(recipes.get, ("fast", "progressive", "sprint"))
    assert (fast.schedule, fast.nesterov, fast.label_smoothing) == ("one_cycle", True, 0.1)
    sizes = [progressive.image_size(epoch) for epoch in range(12)]
    assert sizes == [16] * 4 + [24] * 4 + [32] * 4
    assert dataclasses.replace(progressive, epochs=20, progressive_sizes=()) == fast
    assert progressive.for_size(64).progressive_sizes == (32, 48, 64)
    sizes = [sprint.image_size(epoch) for epoch in range(sprint.epochs)]
    assert sizes == [16, 16, 16, 24, 32]
    assert (sprint.optimizer, sprint.augment) == ("muon", ("random_flip",))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(recipes.Recipe)])
def test_each_setting_is_an_option_a_text_and_json(name):
    """The one declaration of a setting gives all of its forms, and they give it back."""
    value = OTHER[name]
    changed = recipes.get("paddle", **{name: value})
    assert getattr(changed, name) == value
    assert dataclasses.replace(changed, **{name: getattr(recipes.PADDLE, name)}) == recipes.PADDLE
    assert settings.from_json(recipes.Recipe, settings.as_json(changed)) == changed

    words = settings.as_options(changed, recipes.PADDLE)
    assert words[0].startswith(("--" + name.replace("_", "-"), "--no-" + name.replace("_", "-")))
    assert job_of(*words).recipe == changed

    parts = value if isinstance(value, tuple) else [value]
    text = "+".join(str(part).lower() if part is value else str(part) for part in parts)
    assert settings.from_text(recipes.Recipe, name, text) == value


@pytest.mark.parametrize("field", dataclasses.fields(jobs.Job), ids=lambda field: field.name)
def test_each_setting_of_a_job_is_an_option_and_in_config(field):
    other = {
        "arch": "r18",
        "recipe_name": "fast",
        "recipe": recipes.get("paddle", epochs=2),
        "stem": "imagenet",
        "dataset": "synthetic",
        "precision": "float32",
        "image_size": (64, 48),
        "crop_fraction": 0.5,
        "test_split": 0.25,
        "cache": "disk",
        "strategy": "none",
        "scale_lr": "linear",
        "validation_split": 0.25,
        "minutes": 2.5,
    }
    kind = str(field.type)
    value = other.get(field.name, "a b" if "str" in kind else 7 if "int" in kind else None)
    job = jobs.Job(**{field.name: not field.default if value is None else value})
    if field.name == "recipe_name":
        job = dataclasses.replace(job, recipe=recipes.RECIPES["fast"])
    assert job != jobs.Job()
    assert job_of(*job.as_options()) == job
    if field.name in jobs.CONFIG.values():
        again = jobs.Job.from_config(job.as_config(), "a folder")
        assert again == dataclasses.replace(job, run_dir="a folder")


def test_patience_and_the_best_epoch_are_of_full_size():
    recipe = recipes.get("fast", epochs=8, progressive_sizes=(16, 32), patience=2)
    top1 = [0.9, 0.5, 0.4, 0.3, 0.6, 0.7, 0.2, 0.1]
    rows = [{"epoch": e + 1, "val_top1": x, "val_loss": 1.0} for e, x in enumerate(top1)]
    assert [recipe.is_done(rows[:count]) for count in range(9)] == 8 * [False] + [True]
    assert max(rows, key=recipe.score)["epoch"] == 6


def test_an_old_config_has_the_defaults_of_newer_settings():
    settings = {"epochs": 3, "mean": [0, 0, 1], "image_sizes": [16, 32]}
    old = {"arch": "r18", "recipe_settings": settings, "environment": {}}
    recipe = recipes.Recipe(epochs=3, mean=(0, 0, 1), progressive_sizes=(16, 32))
    job = jobs.Job.from_config(old, "runs/a")
    assert job == jobs.Job("r18", recipe=recipe, image_size=(32, 32), run_dir="runs/a")
    for content in ([], {}, {"recipe_settings": 3}, {"recipe_settings": {"no": 1}}):
        with pytest.raises(InputError, match=r"runs/a/config\.json"):
            jobs.Job.from_config(content, "runs/a")


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_an_option_left_out_changes_nothing(recipe):
    expected = jobs.Job(recipe_name=recipe, recipe=recipes.RECIPES[recipe])
    assert job_of("--recipe", recipe) == expected


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (jobs.BACKBONES, models.BACKBONES),
        (jobs.ATTENTIONS, attention.ATTENTIONS),
        (jobs.STEMS, models.STEMS),
        (recipes.WEIGHTINGS, weighting.WEIGHTINGS),
        (recipes.SCHEDULES, schedules.SCHEDULES),
        (recipes.OPTIMIZERS, optimizers.OPTIMIZERS),
        (recipes.AUGMENTATIONS, augment.AUGMENTATIONS),
        (jobs.DATASETS, sources.DATASETS),
        (jobs.STRATEGIES, jobs.STRATEGIES),
    ],
)
def test_help_lists_the_names_of_the_tables(names, table):
    assert list(names) == list(table)
    text = train.parser().format_help().replace(",", " ").split()
    assert set(names) <= {word.strip(";:()") for word in text}


def test_a_data_set_is_a_row(monkeypatch):
    module = types.ModuleType("own")
    part = (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, int))
    module.load = lambda name, data_dir: (part, part, [name], data_dir)
    monkeypatch.setitem(sys.modules, "own", module)
    monkeypatch.setitem(sources.DATASETS, "stripes", "own")
    loaded = sources.load("stripes", sources.Options(data_dir="here"))
    assert loaded.train is part
    assert (loaded.class_names, loaded.source) == (["stripes"], "here")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "float23"], "'float32'"),
        (["--strategy", "miror"], "'mirrored'"),
        (["--scale-lr", "liner"], "'linear'"),
        (["--recipe", "fsat"], "there are paddle, official, fast.*'fast'"),
        (["--stem", "cfar"], "'cifar'"),
        (["--image-size", "4"], "--image-size .*: expected one or two numbers of 8"),
        (["--crop-fraction", "0"], "--crop-fraction 0.0: expected above 0"),
        (["--cache", "mem"], "'memory'"),
        (["--mean", "autp"], "--mean"),
        (["--schedule", "cosine"], "'warmup_cosine'"),
        (["--optimizer", "moun"], "'muon'"),
        (["--steps-per-epoch", "0"], "--steps-per-epoch 0: expected 1 or more"),
        (["--checkpoint-every", "-1"], "--checkpoint-every -1: expected 1 or more"),
        (["--validation-split", "1"], "--validation-split 1.0: expected at least 0"),
        (["--recipe", "fast", "--warmup-fraction", "0"], "--warmup-fraction 0.0: expected above 0"),
    ],
)
def test_a_job_that_is_not_allowed(options, message):
    with pytest.raises(InputError, match=message):
        job_of(*options)


NAN = float("nan")
POSITIVE = ("epochs", "batch_size", "learning_rate", "decay_factor", "kernel_rate")
NOT_NEGATIVE = ("warmup_steps", "weight_decay", "gamma_penalty", "patience", "freeze_epochs")
SHARES = ("momentum", "ema", "label_smoothing", "warmup_fraction")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *((name, bad, "a number above 0") for name in POSITIVE for bad in (0, -1)),
        *((name, -1e-9, "0 or more") for name in NOT_NEGATIVE),
        ("learning_rate", NAN, "a number above 0"),
        ("learning_rate", float("inf"), "a number above 0"),
        ("weight_decay", NAN, "0 or more"),
        *((name, bad, "at least 0 and below 1") for name in SHARES for bad in (1, -0.1)),
        *(("freeze", bad, "none, bn, backbone or stages:N") for bad in ("stages", "stages:0")),
        ("mean", ("auto", 0.5), "three numbers, of R, G and B"),
        ("mean", (0.5, 0.5), "three numbers, of R, G and B"),
        ("mean", (0.5, NAN, 0.5), "three numbers, of R, G and B"),
        ("std", (), "three numbers above 0"),
        ("std", (0.5, 0, 0.5), "three numbers above 0"),
        ("std", (0.5, NAN, 0.5), "three numbers above 0"),
        ("milestones", (60, 0), "epochs above 0"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_option(name, value, expected):
    option = "--" + name.replace("_", "-")
    with pytest.raises(InputError, match=rf"^{option} .*: expected {expected}"):
        recipes.get("paddle", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("momentum", 0), ("weight_decay", 0), ("warmup_steps", 0)],
        *[("label_smoothing", 0.999), ("warmup_fraction", 0)],
    ],
)
def test_the_ends_of_the_ranges_are_allowed(name, value):
    assert getattr(recipes.get("paddle", **{name: value}), name) == value
