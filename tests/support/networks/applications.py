"""Networks of keras.applications at 96 pixels, with random weights like a trained network's."""

import keras
import numpy as np

SIZE = 96
# Name -> the pattern of the normalizations that end a block, how many, how many there are in all.
BLOCKS = {
    "ResNet50": ("_3_bn$", 16, 53),
    "MobileNetV3Small": ("project_bn$", 11, 34),
    "EfficientNetV2B0": ("project_bn$", 21, 59),
}


def images(count, seed=0):
    """Returns images of 0–255, uint8 [count, 96, 96, 3]: coloured patches, 3 to 12 a side."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        patches = rng.integers(0, 256, (*rng.integers(3, 13, 2), 3)).astype("float32")
        found.append(np.asarray(keras.ops.image.resize(patches, (SIZE, SIZE))))
    return np.stack(found).round().astype(np.uint8)


def draw_normalizations(model, seed=0):
    """Moves γ, β and the statistics of all normalizations at random."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights(
                [
                    gamma * rng.uniform(0.5, 1.5, gamma.shape),
                    beta + 0.3 * gamma * rng.normal(size=beta.shape),
                    mean + 0.2 * np.sqrt(variance) * rng.normal(size=mean.shape),
                    variance * rng.uniform(0.7, 1.4, variance.shape),
                ]
            )


def network(name, pictures):
    """Returns a network from images of 0–255 to 5 logits, whose classes are about balanced.

    Without the statistics of some pictures, the signal of a random network vanishes.
    """
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(SIZE, SIZE, 3), classes=5, classifier_activation=None
    )
    parts = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    momentum = parts[0].momentum
    for part in parts:
        part.momentum = 0.0
    model(pictures.astype("float32"), training=True)
    for part in parts:
        part.momentum = momentum
    draw_normalizations(model)
    last = [layer for layer in model.layers if layer.weights][-1]
    kernel, bias = last.get_weights()
    last.set_weights([kernel, bias - np.asarray(model(pictures, training=False)).mean(0)])
    return model
