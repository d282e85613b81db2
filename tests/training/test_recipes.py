"""The recipes' numbers, and what their settings may be."""

import dataclasses

import pytest

from training import recipes, train
from training.cli import InputError

FIELDS = {field.name: field for field in dataclasses.fields(recipes.Recipe)}
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
    "gate_gradient": False,
    "weighting": "max",
    "gamma_penalty": 0.125,
    "image_sizes": (16, 32),
    "augment": ("random_rotation:degrees=5",),
    "mean": (0.1, 0.2, 0.3),
    "std": (0.4, 0.5, 0.6),
}


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


def test_fast_is_one_cycle_with_nesterov_and_smoothing():
    recipe = recipes.get("fast")
    assert (recipe.schedule, recipe.nesterov, recipe.label_smoothing) == ("one_cycle", True, 0.1)


def test_progressive_is_fast_on_small_images_first():
    recipe = recipes.get("progressive")
    assert [recipe.image_size(epoch) for epoch in range(12)] == [16] * 4 + [24] * 4 + [32] * 4
    changed = {"epochs": 20, "image_sizes": (32,)}
    assert dataclasses.replace(recipe, **changed) == recipes.get("fast")


def test_sprint_is_five_epochs_of_muon_that_end_at_full_size():
    recipe = recipes.get("sprint")
    assert [recipe.image_size(epoch) for epoch in range(recipe.epochs)] == [16, 16, 16, 24, 32]
    assert (recipe.optimizer, recipe.augment) == ("muon", ("random_flip",))


@pytest.mark.parametrize("name", FIELDS)
def test_each_setting_can_be_changed_alone(name):
    changed = recipes.get("paddle", **{name: OTHER[name]})
    assert getattr(changed, name) == OTHER[name]
    assert dataclasses.replace(changed, **{name: getattr(recipes.PADDLE, name)}) == recipes.PADDLE


@pytest.mark.parametrize("name", FIELDS)
def test_each_setting_is_a_command_line_option_with_help(name):
    option, value = "--" + name.replace("_", "-"), OTHER[name]
    if isinstance(value, bool):
        words = [option if value else option.replace("--", "--no-")]
    else:
        words = [option, *map(str, value if isinstance(value, tuple) else [value])]
    read = getattr(train.parser().parse_args(words), name)
    assert (tuple(read) if isinstance(read, list) else read) == value
    assert FIELDS[name].metadata["help"]


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_an_option_left_out_changes_nothing(recipe):
    args = vars(train.parser().parse_args([]))
    overrides = {name: args[name] for name in FIELDS}
    assert recipes.get(recipe, **overrides) == recipes.RECIPES[recipe]


def test_an_unknown_schedule_is_an_input_error_with_the_nearest():
    with pytest.raises(InputError, match=r"Unknown schedule 'cosine'.*'warmup_cosine'"):
        recipes.get("paddle", schedule="cosine")


@pytest.mark.parametrize(
    ("name", "nearest"), [("padle", "paddle"), ("oficial", "official"), ("Fast", "fast")]
)
def test_an_unknown_recipe_is_an_input_error_with_the_nearest(name, nearest):
    expected = f"Unknown recipe '{name}'; there are paddle, official, fast.*'{nearest}'"
    with pytest.raises(InputError, match=expected):
        recipes.get(name)


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *((name, 0, "a number above 0") for name in recipes.POSITIVE),
        *((name, -1, "a number above 0") for name in recipes.POSITIVE),
        *((name, -1e-9, "0 or more") for name in recipes.NOT_NEGATIVE),
        ("learning_rate", NAN, "a number above 0"),
        ("learning_rate", float("inf"), "a number above 0"),
        ("weight_decay", NAN, "0 or more"),
        ("label_smoothing", 1, "at least 0 and below 1"),
        ("label_smoothing", -0.1, "at least 0 and below 1"),
        ("warmup_fraction", 1, "at least 0 and below 1"),
        ("mean", (0.5, 0.5), "three numbers, of R, G and B"),
        ("mean", (0.5, NAN, 0.5), "three numbers, of R, G and B"),
        ("std", (), "three numbers, of R, G and B"),
        ("std", (0.5, 0, 0.5), "three numbers above 0"),
        ("std", (0.5, NAN, 0.5), "three numbers, of R, G and B"),
        ("milestones", (60, 0), "epochs above 0"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_option(name, value, expected):
    option = "--" + name.replace("_", "-")
    with pytest.raises(InputError, match=rf"^{option} .*: expected {expected}"):
        recipes.get("paddle", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("momentum", 0), ("weight_decay", 0), ("warmup_steps", 0), ("label_smoothing", 0.999)],
)
def test_the_ends_of_the_ranges_are_allowed(name, value):
    assert getattr(recipes.get("paddle", **{name: value}), name) == value


def test_an_unknown_optimizer_is_an_input_error_with_the_nearest():
    with pytest.raises(InputError, match=r"Unknown optimizer 'moun'; there are sgd, muon.*'muon'"):
        recipes.get("paddle", optimizer="moun")


def test_one_cycle_needs_a_warm_up():
    assert recipes.get("paddle", warmup_fraction=0).warmup_fraction == 0
    with pytest.raises(InputError, match=r"--warmup-fraction 0: expected above 0 for .*one_cycle"):
        recipes.get("fast", warmup_fraction=0)
