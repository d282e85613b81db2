"""Stochastic gradient descent with the semantics of PyTorch and Paddle."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_nam")
class SGD(keras.optimizers.Optimizer):
    """SGD with coupled weight decay, and the learning rate outside the velocity.

    `g = gradient + weight_decay * p`; `v = momentum * v + g`; `p = p - learning_rate * v`, or
    `p = p - learning_rate * (g + momentum * v)` for Nesterov's.

    Keras' own `SGD` decays decoupled from the gradient, and has the learning rate inside the
    velocity: two other trainings as soon as the rate changes.

    Args:
        learning_rate: A float, or a `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: Float.
        weight_decay: Float, added to the gradient of every trainable variable.
        nesterov: Whether the step looks ahead.
        **kwargs: Those of `keras.optimizers.Optimizer`.

    Reference:

    - [torch.optim.SGD](https://pytorch.org/docs/stable/generated/torch.optim.SGD.html)
    """

    def __init__(
        self, learning_rate=0.01, momentum=0.9, weight_decay=5e-4, nesterov=False, **kwargs
    ):
        kwargs.setdefault("name", "sgd")
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        self.momentum = momentum
        self.nesterov = nesterov

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient, variable, learning_rate):
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        if self.weight_decay and self._use_weight_decay(variable):
            gradient = gradient + self.weight_decay * variable
        velocity = self.velocities[self._get_variable_index(variable)]
        self.assign(velocity, self.momentum * velocity + gradient)
        step = gradient + self.momentum * velocity if self.nesterov else velocity
        self.assign_sub(variable, learning_rate * step)

    def _apply_weight_decay(self, variables):
        """The decay is in the gradient; Keras' own step, decoupled, does nothing here."""

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}
