"""SGD as in PyTorch and Paddle, Muon for the kernels of convolutions, and AdamW."""

import keras
from keras import ops

TINY = 1e-7  # added to a norm, since a gradient may be 0


@keras.saving.register_keras_serializable(package="keras_nam")
class SGD(keras.optimizers.Optimizer):
    """SGD with coupled weight decay, and the learning rate outside the velocity.

    `g = gradient + weight_decay * p`; `v = momentum * v + g`; `p = p - learning_rate * v`, or
    `p = p - learning_rate * (g + momentum * v)` for Nesterov's.

    Keras' own `SGD` decouples the decay from the gradient, and its velocity contains the learning
    rate. Both give another training as soon as the rate changes.

    Args:
        learning_rate: A float, or a `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: Float.
        weight_decay: Float, added to the gradient of every trainable variable.
        nesterov: Whether the step looks ahead.
        decay_exempt: List of strings: variables whose path contains one of them do not decay.
        **kwargs: Arguments of `keras.optimizers.Optimizer`.

    Reference:

    - [torch.optim.SGD](https://pytorch.org/docs/stable/generated/torch.optim.SGD.html)
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        nesterov=False,
        decay_exempt=(),
        **kwargs,
    ):
        kwargs.setdefault("name", "sgd")
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        self.momentum = momentum
        self.nesterov = nesterov
        self.decay_exempt = list(decay_exempt)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity")
        self._decays = [
            not any(name in variable.path for name in self.decay_exempt) for variable in variables
        ]

    def update_step(self, gradient, variable, learning_rate):
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        decays = self._decays[self._get_variable_index(variable)]
        if self.weight_decay and self._use_weight_decay(variable) and decays:
            gradient = gradient + self.weight_decay * variable
        self.assign_sub(variable, learning_rate * self._with_momentum(gradient, variable))

    def _with_momentum(self, gradient, variable):
        """Adds a gradient to the variable's velocity; returns the step along it."""
        velocity = self.velocities[self._get_variable_index(variable)]
        self.assign(velocity, self.momentum * velocity + gradient)
        return gradient + self.momentum * velocity if self.nesterov else velocity

    def _apply_weight_decay(self, variables):
        """The decay is in the gradient; Keras' own step, decoupled, does nothing here."""

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "decay_exempt": self.decay_exempt,
        }


@keras.saving.register_keras_serializable(package="keras_nam")
class Muon(SGD):
    """Muon for the kernels of convolutions, `SGD` for all other variables.

    A kernel `W`, [h, w, in, out], is treated as a matrix, [h * w * in, out], and so is its step
    `u`, the step of `SGD` without decay. With `O`, an approximation of the nearest matrix of
    orthonormal columns (or rows) to `u`, and `r = learning_rate * kernel_rate`:

    `W = (1 - r**2 / 2) * W - r * norm(W) * O / norm(O)`.

    A step turns a kernel by about `r` radians, whatever the gradient's size, and equally in all
    directions of the gradient. The first factor cancels the growth of the norm by a step at right
    angles. A normalization follows the kernel, so only its direction matters. A depthwise kernel,
    whose `out` is 1, turns as one vector.

    `keras.optimizers.Muon` applies to matrices only, and trains convolutions and all other
    variables with AdamW.

    Args:
        learning_rate: A float, or a `keras.optimizers.schedules.LearningRateSchedule`.
        kernel_rate: Float, the angle of a kernel's step for a learning rate of 1, in radians.
        **kwargs: Arguments of `SGD`.

    Reference:

    - [Jordan et al., Muon](https://kellerjordan.github.io/posts/muon/)
    """

    def __init__(self, learning_rate=0.4, kernel_rate=0.1, **kwargs):
        kwargs.setdefault("name", "muon")
        super().__init__(learning_rate, **kwargs)
        self.kernel_rate = kernel_rate

    def update_step(self, gradient, variable, learning_rate):
        if len(variable.shape) != 4:
            super().update_step(gradient, variable, learning_rate)
            return
        angle = self.kernel_rate * ops.cast(learning_rate, variable.dtype)
        step = self._with_momentum(ops.cast(gradient, variable.dtype), variable)
        matrix = ops.reshape(step, [-1, variable.shape[-1]])
        direction = ops.reshape(orthogonalized(matrix), variable.shape)
        scale = angle * _norm(variable) / (_norm(direction) + TINY)
        turned = (1 - ops.square(angle) / 2) * variable - scale * direction
        self.assign(variable, turned)

    def get_config(self):
        return {**super().get_config(), "kernel_rate": self.kernel_rate}


def orthogonalized(matrix, iterations=4):
    """Returns about `U @ V.T` of a matrix `U @ S @ V.T`, [m, n], by Newton-Schulz iterations.

    `X = a * X + b * X @ G + c * X @ G @ G` with `G = X.T @ X` takes the singular values, at most 1
    at the start, to 0.7–1.2, except for very small ones. Every iteration is a polynomial of the
    first `G`, which is square and small. So these are multiplied first, and `X` by them last.
    """
    rows, columns = matrix.shape
    if rows < columns:
        return ops.transpose(orthogonalized(ops.transpose(matrix), iterations))
    matrix = matrix / (_norm(matrix) + TINY)
    gram = ops.matmul(ops.transpose(matrix), matrix)
    unit = product = ops.eye(columns, dtype=matrix.dtype)
    for _ in range(iterations):
        factor = 3.4445 * unit - 4.7750 * gram + 2.0315 * ops.matmul(gram, gram)
        product = ops.matmul(product, factor)
        gram = ops.matmul(factor, ops.matmul(gram, factor))
    return ops.matmul(matrix, product)


def _norm(tensor):
    return ops.norm(ops.reshape(tensor, [-1]))


@keras.saving.register_keras_serializable(package="keras_nam")
class AdamW(keras.optimizers.AdamW):
    """Keras' AdamW with moments that are 0 at a later step than the first.

    `m / (1 - beta_1**t)` and `v / (1 - beta_2**t)` correct the moments for their start at 0, where
    `t` counts from the step `started`. Keras counts from the first step of the training, so the
    steps after layers are thawed would be up to six times as long.

    Args:
        learning_rate: A float, or a `keras.optimizers.schedules.LearningRateSchedule`.
        started: Integer, the step at which the moments are 0.
        **kwargs: Arguments of `keras.optimizers.AdamW`.

    Reference:

    - [Loshchilov and Hutter, 2019](https://arxiv.org/abs/1711.05101)
    """

    def __init__(self, learning_rate=0.001, *, started=0, **kwargs):
        kwargs.setdefault("name", "adamw")
        super().__init__(learning_rate, **kwargs)
        self.started = started

    def update_step(self, gradient, variable, learning_rate):
        if self.started:
            step = ops.cast(self.iterations + 1, variable.dtype)
            ratio = self._correction(step - self.started) / self._correction(step)
            learning_rate = ratio * ops.cast(learning_rate, variable.dtype)
        super().update_step(gradient, variable, learning_rate)

    def _correction(self, step):
        return ops.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)

    def get_config(self):
        return {**super().get_config(), "started": self.started}


OPTIMIZERS = {
    "sgd": lambda rate, recipe: SGD(rate, **_momentum(recipe), **_shared(recipe)),
    "muon": lambda rate, recipe: Muon(
        rate, recipe.kernel_rate, **_momentum(recipe), **_shared(recipe)
    ),
    "adamw": lambda rate, recipe: AdamW(rate, **_shared(recipe)),
}


def _momentum(recipe):
    return {
        "momentum": recipe.momentum,
        "nesterov": recipe.nesterov,
        "decay_exempt": recipe.decay_exempt,
    }


def _shared(recipe):
    average = {"use_ema": True, "ema_momentum": recipe.ema} if recipe.ema else {}
    return {"weight_decay": recipe.weight_decay, **average}


def from_recipe(recipe, learning_rate):
    """Returns the optimizer of a `Recipe`.

    Args:
        recipe: A `Recipe`.
        learning_rate: A float, or a `keras.optimizers.schedules.LearningRateSchedule`.
    """
    return OPTIMIZERS[recipe.optimizer](learning_rate, recipe)
