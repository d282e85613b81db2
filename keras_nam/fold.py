"""Folding: turns a trained model into an equal one for inference, without normalizations."""

from functools import partial

import keras
import numpy as np
from keras import layers, ops

from keras_nam.attention import NAM, NAMChannelAttention, NAMSpatialAttention, weighting
from keras_nam.graph_copy import GraphCopy, again, following
from keras_nam.normalization import BatchNormalization, _fused_batch_norm

NORMALIZATIONS = (keras.layers.BatchNormalization, BatchNormalization)
# Linear layer -> its kernel, and the kernel's axes of the output channels.
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


def fold(model):
    """Returns an equal model for inference, with its normalizations folded away.

    A batch normalization after a linear layer becomes a part of it:

    `kernel * s` and `beta + (bias - mean) * s`, with `s = gamma / sqrt(variance + epsilon)`

    A NAM gate, of channels or of positions, becomes a `FoldedGate`:

    `y = gain * x * sigmoid(a * x + b)`, with `a = w * s`, `b = w * beta - a * mean`,
    `w = |gamma| / sum(|gamma|)`

    The gain of a channel gate after a folded normalization becomes a part of the linear layer:
    `kernel * gain`, `bias * gain` and `a / gain`.

    The numbers are computed in float64 and rounded once. A normalization is folded under these
    conditions: it is Keras' or this package's (no subclass, no renormalization); it normalizes the
    output channels of a Dense or convolution layer without activation; nothing else uses that
    layer's output; each is called once; both have the same dtype policy.

    All other layers are copied, inside nested models too, with the state that Keras saves: weights
    and vocabularies, but not the states of a stateful recurrent layer. Every layer is called with
    `training=False`, also one that was called with `training=True`: no normalization uses the
    batch's statistics, and random augmentation inside the model is not active.

    Args:
        model: A `keras.Model`, functional or a built `Sequential`. It is not changed.

    Returns:
        A functional `keras.Model` of the same name, inputs, outputs and dtype policies. It shares
        no variables with the model, and is neither trainable nor compiled. In float32 its outputs
        are equal except for rounding. Under mixed precision they differ by the half type's
        rounding, since the folded kernel is cast.

    Raises:
        ValueError: If the model is not a graph of layers: a subclassed model with a `call`, a
            `Sequential` that is not built, or not a model. If a layer cannot be copied because
            `get_config` or its saved state does not describe it. The message names the layer.

    Example:

    >>> model = keras_nam.create_model("r50_nam")
    >>> keras_nam.fold(model).count_params()
    23708900
    """
    folded = _Folding(model, "fold").copy()
    folded.trainable = False
    return folded


class _Folding(GraphCopy):
    def __init__(self, model, caller):
        super().__init__(model, caller)
        users = following(self.graphs.values())
        self.normalizations = _foldable(users)
        self.absorbed = {}  # linear layer or gate -> the gate's gain, which the linear layer takes
        for layer, normalization in self.normalizations.items():
            gate, _ = users.get(normalization, (None, None))
            if type(gate) is NAMChannelAttention and gate.gain:
                self.absorbed[layer] = self.absorbed[gate] = gate.gain

    @staticmethod
    def call(layer, *args, **kwargs):
        # Keras' random layers have the default `training=True`, and so has what comes after them.
        # A layer whose `call` does not take `training` hands it to its inner layers.
        if isinstance(layer, keras.layers.Layer):
            kwargs["training"] = False
        return layer(*args, **kwargs)

    def replacement(self, layer):
        if layer in self.normalizations.values():
            return partial(_through, [])
        gates = _folded_gates(layer, self.absorbed.get(layer, 1.0))
        if gates:
            self.transfers += [(layer, _assign, *gate) for gate in gates]
            return partial(_through, [gate for gate, _ in gates])
        if layer in self.normalizations:
            copy = again(layer, use_bias=True)
            gain = self.absorbed.get(layer, 1.0)
            weights = _folded_weights(layer, self.normalizations[layer], gain)
            self.transfers.append((layer, _assign, copy, weights))
            return copy
        return None


def _foldable(users):
    """Returns linear layer -> the normalization that can be folded into it."""
    return {
        layer: after
        for layer, (after, rank) in users.items()
        if type(after) in NORMALIZATIONS and _takes(layer, after, rank)
    }


def _through(layers, inputs, *unused_args, **unused_kwargs):
    """Calls layers in turn, without the `training` and `mask` of the replaced layer."""
    for layer in layers:
        inputs = layer(inputs, training=False)
    return inputs


def _assign(layer, weights):
    for name, value in weights.items():
        variable = getattr(layer, name)
        variable.assign(value.reshape(variable.shape))


def _takes(layer, normalization, rank):
    """Whether a normalization can be folded into the layer before it, with outputs of a rank."""
    if not has_plain_kernel(layer) or getattr(normalization, "renorm", False):
        return False
    channels = 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1
    return (
        layer.activation in (None, keras.activations.linear)
        and normalization.axis % rank == channels
        and layer.dtype_policy == normalization.dtype_policy
    )


def has_plain_kernel(layer):
    """Whether it is a linear layer of Keras that is neither quantized nor has LoRA weights."""
    return type(layer) in KERNELS and {variable.name for variable in layer.weights} <= WEIGHTS


def _folded_weights(layer, normalization, gain):
    """Returns attribute -> float64 array for a linear layer with a normalization folded in."""
    gamma, beta, mean, inverse = _statistics(normalization)
    beta = gain * beta
    scale = gain * gamma * inverse
    kernel_name, axes = KERNELS[type(layer)]
    weights = {variable.name: _float64(variable) for variable in layer.weights}
    kernel = weights[kernel_name]
    axes = {axis % kernel.ndim for axis in axes}
    shape = [n if axis in axes else 1 for axis, n in enumerate(kernel.shape)]
    return {
        **weights,
        kernel_name: kernel * scale.reshape(shape),
        "bias": beta + (weights.get("bias", 0) - mean) * scale,
    }


def _folded_gates(layer, absorbed):
    """Returns the (`FoldedGate`, attribute -> float64 array) of a NAM layer; else an empty list.

    Its inputs have the factor `absorbed`.
    """
    if type(layer) is NAM:
        gates = list(layer.gates.values())
    else:
        gates = [layer] if type(layer) in (NAMChannelAttention, NAMSpatialAttention) else []
    folded = []
    for gate in gates:
        name = layer.name if len(gates) == 1 else f"{layer.name}_{gate.name}"
        axis = gate.axis
        if isinstance(gate, NAMSpatialAttention):
            axis = [1, 2] if gate.data_format == "channels_last" else [2, 3]
        copy = FoldedGate(axis, gate.gain / absorbed, dtype=gate.dtype_policy, name=name)
        folded.append((copy, _gate_weights(gate, absorbed)))
    return folded


def _gate_weights(gate, absorbed):
    gamma, beta, mean, inverse = _statistics(gate)
    weights = weighting.weights(gate.weighting, np.abs(gamma), np)
    scale = weights * gamma * inverse
    return {"scale": scale / absorbed, "offset": weights * beta - scale * mean}


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
    """`y = gain * x * sigmoid(scale * x + offset)`: a NAM gate with its statistics folded in.

    It is computed in float32 under every dtype policy, like the gate.

    Args:
        axis: Integer or list of integers, the axes of the inputs that the weights are along.
        gain: Float, a factor of the outputs.
        **kwargs: Base layer keyword arguments (`name`, `dtype`).

    Call arguments:
        inputs: Tensor. `scale` and `offset` are [C] for an integer `axis`; for a list they have
            the inputs' shape without the batch, 1 elsewhere: [H, W, 1] for `axis=[1, 2]`.

    Returns:
        A tensor of the shape of the inputs.
    """

    def __init__(self, axis=-1, gain=1.0, **kwargs):
        super().__init__(**kwargs)
        self.axis = axis
        self.gain = gain

    def build(self, input_shape):
        rank = len(input_shape)
        axes = [self.axis] if isinstance(self.axis, int) else self.axis
        axes = {axis % rank for axis in axes}
        self._broadcast = tuple(n if i in axes else 1 for i, n in enumerate(input_shape))
        shape = (input_shape[self.axis],) if isinstance(self.axis, int) else self._broadcast[1:]
        dtype = keras.backend.result_type(self.variable_dtype, "float32")
        options = {"shape": shape, "dtype": dtype, "autocast": False}
        self.scale = self.add_weight(name="scale", **options)
        self.offset = self.add_weight(name="offset", **options)

    def call(self, inputs):
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        scale, offset = (ops.cast(weight, x.dtype) for weight in (self.scale, self.offset))
        if self._is_fusable(x):
            # One operation, also in ONNX, where a product and a sum are slower.
            zeros = np.zeros(scale.shape, "float32")
            z, *_ = _fused_batch_norm(x, scale, offset, zeros, zeros + 1, 0.0, training=False)
        else:
            z = x * ops.reshape(scale, self._broadcast) + ops.reshape(offset, self._broadcast)
        outputs = x * ops.sigmoid(z)
        return ops.cast(outputs if self.gain == 1 else self.gain * outputs, self.compute_dtype)

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
        return {**super().get_config(), "axis": self.axis, "gain": self.gain}
