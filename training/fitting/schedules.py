"""Learning rate schedules: functions of the step, which counts from 0."""

import math

import keras
from keras import ops


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule whose configuration is its constructor's arguments."""

    def __init__(self, **settings):
        super().__init__()
        self.settings = settings

    def get_config(self):
        return self.settings


@keras.saving.register_keras_serializable(package="keras_nam")
class WarmupCosine(Schedule):
    """Linear warm-up by step, then half a cosine that moves once an epoch (the Paddle article).

    `peak * (step + 1) / warmup_steps` while `step < warmup_steps`, then
    `peak * (1 + cos(pi * epoch / epochs)) / 2`, where the epochs count from the first step.
    """

    def __init__(self, peak, warmup_steps, epochs, steps_per_epoch):
        super().__init__(
            peak=peak, warmup_steps=warmup_steps, epochs=epochs, steps_per_epoch=steps_per_epoch
        )

    def __call__(self, step):
        s = self.settings
        step = ops.cast(step, "float32")
        epoch = ops.floor(step / s["steps_per_epoch"])
        cosine = s["peak"] * 0.5 * (1 + ops.cos(math.pi * epoch / s["epochs"]))
        warmup = s["peak"] * (step + 1) / max(1, s["warmup_steps"])
        return ops.where(step < s["warmup_steps"], warmup, cosine)


@keras.saving.register_keras_serializable(package="keras_nam")
class StepDecay(Schedule):
    """`peak * factor ** n`, n being the number of milestones (in epochs) that were passed."""

    def __init__(self, peak, milestones, factor, steps_per_epoch):
        super().__init__(
            peak=peak,
            milestones=list(milestones),
            factor=factor,
            steps_per_epoch=steps_per_epoch,
        )

    def __call__(self, step):
        s = self.settings
        step = ops.cast(step, "float32")
        passed = sum(
            ops.cast(step >= milestone * s["steps_per_epoch"], "float32")
            for milestone in s["milestones"]
        )
        return s["peak"] * s["factor"] ** ops.convert_to_tensor(passed, "float32")


@keras.saving.register_keras_serializable(package="keras_nam")
class OneCycle(Schedule):
    """From 0 linearly to the peak over `warmup` of the steps, then linearly to 0."""

    def __init__(self, peak, steps, warmup):
        super().__init__(peak=peak, steps=steps, warmup=warmup)

    def __call__(self, step):
        s = self.settings
        at = (ops.cast(step, "float32") + 1) / (s["steps"] + 1)
        return s["peak"] * ops.minimum(at / s["warmup"], (1 - at) / (1 - s["warmup"]))


SCHEDULES = {
    "warmup_cosine": lambda recipe, steps_per_epoch: WarmupCosine(
        recipe.learning_rate, recipe.warmup_steps, recipe.epochs, steps_per_epoch
    ),
    "step_decay": lambda recipe, steps_per_epoch: StepDecay(
        recipe.learning_rate, recipe.milestones, recipe.decay_factor, steps_per_epoch
    ),
    "one_cycle": lambda recipe, steps_per_epoch: OneCycle(
        recipe.learning_rate, recipe.epochs * steps_per_epoch, recipe.warmup_fraction
    ),
}


def from_recipe(recipe, steps_per_epoch):
    """Returns the recipe's schedule, a function of the step."""
    return SCHEDULES[recipe.schedule](recipe, steps_per_epoch)
