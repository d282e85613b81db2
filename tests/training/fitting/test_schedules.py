"""Learning rates against their formulas, computed here in float64.

The schedules compute in float32: a few roundings of 6e-8, so 1e-6 of the value.
"""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from training import jobs, recipes
from training.fitting import resolve, schedules
from training.fitting.optimizers import SGD


def rates(schedule, steps):
    return np.array([float(schedule(step)) for step in steps])


def test_warm_up_is_linear_by_step_then_the_cosine_counts_epochs_from_the_first_step():
    schedule = schedules.WarmupCosine(0.01, 2000, 90, 195)
    expected = [0.01 / 2000, 0.01 / 1000, 0.005, 0.01]
    np.testing.assert_allclose(rates(schedule, [0, 1, 999, 1999]), expected, rtol=1e-6)
    for step in (2000, 2144, 2145, 45 * 195, 60 * 195 + 7, 90 * 195 - 1):
        expected = 0.01 * (1 + math.cos(math.pi * (step // 195) / 90)) / 2
        # Near the end 1 + cos is small, and carries the rounding of the cosine: 6e-8 of the peak.
        np.testing.assert_allclose(float(schedule(step)), expected, rtol=1e-6, atol=1e-9)


def test_the_cosine_moves_once_an_epoch():
    schedule = schedules.WarmupCosine(0.1, 0, 4, 5)
    by_epoch = rates(schedule, range(20)).reshape(4, 5)
    assert (by_epoch == by_epoch[:, :1]).all()
    expected = [0.1, 0.05 * (1 + math.sqrt(0.5)), 0.05, 0.05 * (1 - math.sqrt(0.5))]
    np.testing.assert_allclose(by_epoch[:, 0], expected, rtol=1e-6)


def test_step_decay_multiplies_at_the_first_step_of_each_milestone():
    schedule = schedules.StepDecay(0.1, [60, 120, 160], 0.2, 391)
    steps = [0, 60 * 391 - 1, 60 * 391, 120 * 391 - 1, 120 * 391, 160 * 391 - 1, 160 * 391]
    expected = [0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008]
    np.testing.assert_allclose(rates(schedule, steps), expected, rtol=1e-6)
    constant = schedules.StepDecay(0.1, [], 0.2, 10)
    np.testing.assert_allclose(rates(constant, [0, 1000]), 0.1, rtol=1e-6)


def test_one_cycle_rises_to_the_peak_and_falls_in_straight_lines():
    # Of 99 steps, step 24 is a quarter of the way: the peak. Before and after them it is 0.
    schedule = schedules.OneCycle(0.4, 99, 0.25)
    expected = [0.4 / 25, 0.4 * 24 / 25, 0.4, 0.4 * 74 / 75, 0.4 / 75]
    np.testing.assert_allclose(rates(schedule, [0, 23, 24, 25, 98]), expected, rtol=1e-5)
    assert rates(schedule, range(99)).min() > 0


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("paddle", {"peak": 0.01, "warmup_steps": 2000, "epochs": 90, "steps_per_epoch": 195}),
        (
            "official",
            {"peak": 0.1, "milestones": [60, 120, 160], "factor": 0.2, "steps_per_epoch": 195},
        ),
        ("fast", {"peak": 0.4, "steps": 20 * 195, "warmup": 0.25}),
    ],
)
def test_a_recipes_schedule_survives_serialization_inside_its_optimizer(name, settings):
    schedule = schedules.from_recipe(recipes.get(name), 195)
    assert schedule.get_config() == settings
    config = keras.optimizers.serialize(SGD(schedule))
    again = keras.optimizers.deserialize(config)
    assert float(again.learning_rate) == float(schedule(0))
    restored = keras.optimizers.schedules.deserialize(config["config"]["learning_rate"])
    assert type(restored) is type(schedule)
    steps = [0, 1, 30, 100]
    np.testing.assert_array_equal(rates(restored, steps), rates(schedule, steps))


def test_the_rate_follows_the_step_of_a_traced_training():
    traced = tf.function(schedules.StepDecay(0.1, [1], 0.5, 2))
    found = [float(traced(tf.constant(step, tf.int64))) for step in range(4)]
    np.testing.assert_allclose(found, [0.1, 0.1, 0.05, 0.05], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "warning"),
    [
        ("paddle", {"warmup_steps": 30}, "30, and the training has 30 steps"),
        ("paddle", {"warmup_steps": 29}, None),
        ("official", {"milestones": (3, 5)}, "3 5, and the training has 3 epochs"),
        ("official", {"milestones": (2, 5)}, None),
        ("fast", {}, None),
    ],
)
def test_a_training_that_is_too_short_is_warned_of(name, settings, warning):
    recipe = recipes.get(name, epochs=3, **settings)
    said = []
    resolve.warn_of_few_steps(jobs.Job(recipe=recipe, steps_per_epoch=10), said.append)
    assert len(said) == (warning is not None)
    assert all(line.startswith("warning: ") and warning in line for line in said)
