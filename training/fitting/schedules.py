"""Learning rate schedules: functions of the step, which counts from 0."""

import dataclasses
import math

import keras
from keras import ops


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule whose fields are its configuration."""

    def get_config(self):
        return dataclasses.asdict(self)


@keras.saving.register_keras_serializable(package="keras_nam")
@dataclasses.dataclass(eq=False)
class WarmupCosine(Schedule):
    """Linear warm-up by step, then half a cosine that moves once an epoch (the Paddle article).

    `peak * (step + 1) / warmup_steps` while `step < warmup_steps`, then
    `peak * (1 + cos(pi * epoch / epochs)) / 2`, where the epochs count from the first step.
    """

    peak: float
    warmup_steps: int
    epochs: int
    steps_per_epoch: int

    def __call__(self, step):
        step = ops.cast(step, "float32")
        epoch = ops.floor(step / self.steps_per_epoch)
        cosine = self.peak * 0.5 * (1 + ops.cos(math.pi * epoch / self.epochs))
        warmup = self.peak * (step + 1) / max(1, self.warmup_steps)
        return ops.where(step < self.warmup_steps, warmup, cosine)


@keras.saving.register_keras_serializable(package="keras_nam")
@dataclasses.dataclass(eq=False)
class StepDecay(Schedule):
    """`peak * factor ** n`, where `n` milestones (in epochs) have passed."""

    peak: float
    milestones: list
    factor: float
    steps_per_epoch: int

    def __call__(self, step):
        step = ops.cast(step, "float32")
        passed = sum(
            ops.cast(step >= milestone * self.steps_per_epoch, "float32")
            for milestone in self.milestones
        )
        return self.peak * self.factor ** ops.convert_to_tensor(passed, "float32")


@keras.saving.register_keras_serializable(package="keras_nam")
@dataclasses.dataclass(eq=False)
class OneCycle(Schedule):
    """From 0 linearly to the peak over `warmup` of the steps, then linearly to 0."""

    peak: float
    steps: int
    warmup: float

    def __call__(self, step):
        at = (ops.cast(step, "float32") + 1) / (self.steps + 1)
        return self.peak * ops.minimum(at / self.warmup, (1 - at) / (1 - self.warmup))


SCHEDULES = {
    "warmup_cosine": lambda recipe, steps_per_epoch: WarmupCosine(
        recipe.learning_rate, recipe.warmup_steps, recipe.epochs, steps_per_epoch
    ),
    "step_decay": lambda recipe, steps_per_epoch: StepDecay(
        recipe.learning_rate, list(recipe.milestones), recipe.decay_factor, steps_per_epoch
    ),
    "one_cycle": lambda recipe, steps_per_epoch: OneCycle(
        recipe.learning_rate, recipe.epochs * steps_per_epoch, recipe.warmup_fraction
    ),
}


def from_recipe(recipe, steps_per_epoch):
    """Returns the recipe's schedule, a function of the step."""
    return SCHEDULES[recipe.schedule](recipe, steps_per_epoch)
