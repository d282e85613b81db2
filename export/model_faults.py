"""What may go wrong before the conversion, as functions that make it go wrong, one fault each.

Each takes the run's `Source` and a `numpy.random.Generator`, and returns what a wrong SavedModel
is written from: (Keras model, mean, std).
"""

import keras
import numpy as np


def swapped_mean_and_std(source, rng):
    """Mean and deviation are in each other's place."""
    return source.run.model, source.run.std, source.run.mean


def reversed_mean(source, rng):
    """Mean and deviation are of B, G and R."""
    return source.run.model, source.run.mean[::-1], source.run.std[::-1]


def other_std(source, rng):
    """The deviation is the other one that is in use for CIFAR-100."""
    return source.run.model, source.run.mean, (0.2023, 0.1994, 0.2010)


def negated_gamma(source, rng):
    """One normalization's gammas have the other sign."""

    def negate(layer):
        layer.gamma.assign(-np.asarray(layer.gamma))

    return _with(source, negate, rng)


def other_epsilon(source, rng):
    """One normalization has Keras' own epsilon."""

    def change(layer):
        layer.epsilon = 1e-3

    return _with(source, change, rng)


def unbiased_statistics(source, rng):
    """One normalization's variance is n/(n-1) of what it was, for a batch of 256 and 8x8 pixels."""

    def change(layer):
        count = 256 * 64
        layer.moving_variance.assign(np.asarray(layer.moving_variance) * count / (count - 1))

    return _with(source, change, rng)


def initial_statistics(source, rng):
    """One normalization's moving statistics are those it began with."""

    def reset(layer):
        layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
        layer.moving_variance.assign(np.ones(layer.moving_variance.shape))

    return _with(source, reset, rng)


def stale(source, rng):
    """The weights are those before the last step: off by 1e-4 of each."""
    return _perturbed(source, rng, 1e-4)


def other_epoch(source, rng):
    """The weights are those of an earlier epoch: off by a tenth of each."""
    return _perturbed(source, rng, 0.1)


def _with(source, change, rng):
    """Returns the model after `change` of one of its normalizations."""
    model = _copy(source.run.model)
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    change(layers[rng.integers(len(layers))])
    return model, source.run.mean, source.run.std


def _perturbed(source, rng, share):
    model = _copy(source.run.model)
    model.set_weights(
        [weight * (1 + share * rng.standard_normal(weight.shape)) for weight in model.get_weights()]
    )
    return model, source.run.mean, source.run.std


def _copy(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


FAULTS = {
    "mean and std swapped": swapped_mean_and_std,
    "mean and std of BGR": reversed_mean,
    "another data set's std": other_std,
    "a layer's γ with the other sign": negated_gamma,
    "a layer's epsilon 1e-3": other_epsilon,
    "a layer's variance unbiased": unbiased_statistics,
    "a layer's statistics not loaded": initial_statistics,
    "a stale SavedModel": stale,
    "weights of another epoch": other_epoch,
}
