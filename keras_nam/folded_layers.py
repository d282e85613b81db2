"""The layers that take over a normalization's work, and the numbers they take for it."""

import keras
import numpy as np
from keras import layers, ops

from keras_nam.attention import NAM, NAMChannelAttention, NAMSpatialAttention, weighting
from keras_nam.normalization import _fused_batch_norm

# A linear layer: its kernel, and the kernel's axes that number the output channels.
KERNELS = {
    layers.Dense: ("kernel", (-1,)),
    layers.Conv1D: ("kernel", (-1,)),
    layers.Conv2D: ("kernel", (-1,)),
    layers.Conv3D: ("kernel", (-1,)),
    layers.DepthwiseConv1D: ("kernel", (-2, -1)),
    layers.DepthwiseConv2D: ("kernel", (-2, -1)),
    layers.SeparableConv1D: ("pointwise_kernel", (-1,)),
    layers.SeparableConv2D: ("pointwise_kernel", (-1,)),
    layers.Conv1DTranspose: ("kernel", (-2,)),
    layers.Conv2DTranspose: ("kernel", (-2,)),
    layers.Conv3DTranspose: ("kernel", (-2,)),
}
WEIGHTS = {"kernel", "depthwise_kernel", "pointwise_kernel", "bias"}


def takes(layer, normalization, rank):
    """Whether a linear layer can do the work of a normalization of its outputs, of a rank."""
    if type(layer) not in KERNELS or getattr(normalization, "renorm", False):
        return False
    channels = 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1
    return (
        layer.activation in (None, keras.activations.linear)
        and normalization.axis % rank == channels
        and layer.dtype_policy == normalization.dtype_policy
        # A quantized or LoRA layer has others besides.
        and {variable.name for variable in layer.weights} <= WEIGHTS
    )


def folded_weights(layer, normalization):
    """Returns attribute -> float64 array, for a linear layer with its normalization's work."""
    gamma, beta, mean, inverse = _statistics(normalization)
    scale = gamma * inverse
    kernel_name, axes = KERNELS[type(layer)]
    weights = {
        name: _float64(getattr(layer, name))
        for name in WEIGHTS
        if getattr(layer, name, None) is not None
    }
    kernel = weights[kernel_name]
    axes = {axis % kernel.ndim for axis in axes}
    shape = [n if axis in axes else 1 for axis, n in enumerate(kernel.shape)]
    bias = weights.get("bias", 0)
    return {
        **weights,
        kernel_name: kernel * scale.reshape(shape),
        "bias": beta + (bias - mean) * scale,
    }


def folded_gates(layer):
    """Returns a list of (`FoldedGate`, attribute -> float64 array): none if it is no NAM layer."""
    if type(layer) is NAM:
        gates = list(layer.gates.values())
    else:
        gates = [layer] if type(layer) in (NAMChannelAttention, NAMSpatialAttention) else []
    names = [layer.name] if len(gates) == 1 else [f"{layer.name}_{gate.name}" for gate in gates]
    return [
        (FoldedGate(_axis(gate), dtype=gate.dtype_policy, name=name), _gate_weights(gate))
        for gate, name in zip(gates, names, strict=True)
    ]


def _axis(gate):
    if isinstance(gate, NAMChannelAttention):
        return gate.axis
    return [1, 2] if gate.data_format == "channels_last" else [2, 3]


def _gate_weights(gate):
    gamma, beta, mean, inverse = _statistics(gate)
    weights = weighting.weights(gate.weighting, np.abs(gamma), np)
    scale = weights * gamma * inverse
    return {"scale": scale, "offset": weights * beta - scale * mean}


def _statistics(normalization):
    """Returns gamma, beta, the moving mean and 1 / sqrt(moving variance + epsilon), float64."""
    mean, variance = map(_float64, (normalization.moving_mean, normalization.moving_variance))
    gamma = np.ones_like(mean) if normalization.gamma is None else _float64(normalization.gamma)
    beta = np.zeros_like(mean) if normalization.beta is None else _float64(normalization.beta)
    return gamma, beta, mean, 1 / np.sqrt(variance + normalization.epsilon)


def _float64(variable):
    return ops.convert_to_numpy(variable).astype("float64")


@keras.saving.register_keras_serializable(package="keras_nam")
class FoldedGate(layers.Layer):
    """`y = x * sigmoid(scale * x + offset)`: a NAM gate with its statistics folded in.

    It is computed in float32 under every dtype policy, as the gate is.

    Args:
        axis: Integer or list of integers, the axes of the inputs that have a weight an index.
        **kwargs: Base layer keyword arguments (`name`, `dtype`).

    Call arguments:
        inputs: Tensor. `scale` and `offset` are [C] for an integer `axis`; for a list they have
            the inputs' shape without the batch, 1 elsewhere: [H, W, 1] for `axis=[1, 2]`.

    Returns:
        A tensor of the shape of the inputs.
    """

    def __init__(self, axis=-1, **kwargs):
        super().__init__(**kwargs)
        self.axis = axis

    def build(self, input_shape):
        rank = len(input_shape)
        axes = [self.axis] if isinstance(self.axis, int) else self.axis
        axes = {axis % rank for axis in axes}
        self._broadcast = tuple(n if i in axes else 1 for i, n in enumerate(input_shape))
        shape = (input_shape[self.axis],) if isinstance(self.axis, int) else self._broadcast[1:]
        # As a normalization's, the weights keep their precision whatever the policy computes in.
        self.scale = self.add_weight(name="scale", shape=shape, autocast=False)
        self.offset = self.add_weight(name="offset", shape=shape, autocast=False)

    def call(self, inputs):
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        scale, offset = (ops.cast(weight, x.dtype) for weight in (self.scale, self.offset))
        if self._is_fusable(x):
            # One operation, and one in ONNX, where a product and a sum are slower.
            zeros = np.zeros(scale.shape, "float32")
            z, *_ = _fused_batch_norm(x, scale, offset, zeros, zeros + 1, 0.0, training=False)
        else:
            z = x * ops.reshape(scale, self._broadcast) + ops.reshape(offset, self._broadcast)
        return ops.cast(x * ops.sigmoid(z), self.compute_dtype)

    def _is_fusable(self, x):
        return (
            keras.backend.backend() == "tensorflow"
            and len(x.shape) == 4
            and self.axis in (-1, 3)
            and keras.backend.standardize_dtype(x.dtype) == "float32"
        )

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "axis": self.axis}
