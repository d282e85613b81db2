"""The gate that NAM's channel and spatial attention share."""

import keras
from keras import ops

from keras_nam import derived_gate
from keras_nam.attention import weighting as weightings
from keras_nam.normalization import BatchNormalization


class NormalizationGate(BatchNormalization):
    """`y = gain * x * sigmoid(w * BN(x))` along the normalized axis, `w = |gamma| / sum(|gamma|)`.

    Since `w` holds one number for each gamma, `w * BN(x; gamma, beta)` is
    `BN(x; gamma * w, beta * w)`: a single normalization, with another scale and offset. In
    training its statistics follow from the normalization before it (`derived_gate`).
    """

    record = None  # function of the gate and the values of a call, see `gate_values`

    def __init__(
        self,
        momentum=0.9,
        epsilon=1e-5,
        gate_gradient=True,
        weighting="sum",
        gain=1.0,
        **kwargs,
    ):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)
        if not self.scale or self.renorm:
            raise ValueError(
                "The gate's weights come from gamma: it needs `scale=True` and `renorm=False`. "
                f"Received: scale={self.scale}, renorm={self.renorm}"
            )
        if weighting not in weightings.WEIGHTINGS:
            raise ValueError(
                f"The `weighting` must be one of {list(weightings.WEIGHTINGS)}. "
                f"Received: weighting={weighting!r}"
            )
        self.gate_gradient = gate_gradient
        self.weighting = weighting
        self.gain = gain
        self.supports_masking = False

    @property
    def gate_weights(self):
        """The weights `|gamma| / sum(|gamma|)`, a tensor of gamma's shape; 0 if every gamma is."""
        dtype = keras.backend.result_type(self.gamma.dtype, "float32")
        return weightings.weights(self.weighting, ops.abs(ops.cast(self.gamma, dtype)))

    def call(self, inputs, training=None):
        # w is about 1/C, so the gate is so near 0.5 that float16 cannot tell them apart.
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        weights = self.gate_weights
        if not self.gate_gradient:
            weights = ops.stop_gradient(weights)
        gamma = self.gamma * weights
        beta = ops.zeros_like(gamma) if self.beta is None else self.beta * weights
        derivable = training and self.trainable and self._is_fusable(x)
        known = derived_gate.recall(x, gamma, beta) if derivable else None
        if known:
            outputs = derived_gate.gate(x, gamma, beta, known, self.epsilon)
            self._move_statistics(known.mean, known.variance)
        else:
            values = ops.sigmoid(self._normalize(x, gamma, beta, training))
            if self.record is not None:
                self.record(self, self._restored(values))
            outputs = x * values
        if self.gain != 1:
            outputs = self.gain * outputs
        return ops.cast(outputs, self.compute_dtype)

    def _restored(self, x):
        """Returns a tensor of the normalization in the form of the layer's inputs."""
        return x

    def get_config(self):
        return {
            **super().get_config(),
            "gate_gradient": self.gate_gradient,
            "weighting": self.weighting,
            "gain": self.gain,
        }
