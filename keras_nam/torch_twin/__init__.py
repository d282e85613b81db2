"""The same networks in PyTorch, the proof of a conversion. Needs PyTorch.

A twin takes a state dict by PyTorch's `load_state_dict(strict=True)`. It uses none of the
conversion's tables of names and layouts.
"""

import keras
import numpy as np
import torch

from keras_nam.attention import ATTENTIONS
from keras_nam.models import BACKBONES, parse_arch
from keras_nam.torch_twin.networks import MobileNetV2, ResNet


def create_twin(arch, num_classes=100, image_size=32, stem="cifar", style="official"):
    """Returns the PyTorch network of an arch.

    Args:
        arch: String, as `create_model` takes it.
        num_classes: Integer, the number of logits.
        image_size: Integer, height and width of the images.
        stem: `"cifar"` or `"imagenet"`.
        style: String, whose names the modules have: `"official"` or `"weiaicunzai"`.

    Returns:
        A `torch.nn.Module` from images [N, 3, H, W] to logits [N, num_classes].
    """
    backbone, width, attention = parse_arch(arch)
    options = {
        "width": width,
        "attention": ATTENTIONS.get(attention),
        "classes": num_classes,
        "stem": stem,
        "size": image_size,
    }
    if backbone == "mbv2":
        return MobileNetV2(**options)
    return ResNet(**options, style=style, **BACKBONES[backbone].features.keywords)


def largest_difference(model, arrays, format, arch, stem="cifar", images=4, seed=0):
    """Returns the largest difference of the logits, relative to the largest logit.

    Args:
        model: The Keras model.
        arrays: A state dict, arrays or tensors by the format's names.
        format: `"official"`, `"weiaicunzai"` or `"paddle"`.
        arch: String, the network's name.
        stem: `"cifar"` or `"imagenet"`.
        images: Integer, the number of random images.
        seed: Integer, the seed of the images.
    """
    channels_first = keras.config.image_data_format() == "channels_first"
    size, classes = model.input_shape[2], model.output_shape[-1]
    style = "official" if format == "paddle" else format
    twin = create_twin(arch, classes, size, stem, style)
    tensors = {key: _to_tensor(value) for key, value in arrays.items()}
    if format == "paddle":
        tensors = _from_paddle(tensors, twin.state_dict())
    twin.load_state_dict(tensors, strict=True)
    x = np.random.default_rng(seed).normal(size=(images, 3, size, size)).astype(np.float32)
    with torch.no_grad():
        theirs = twin.eval()(torch.from_numpy(x)).numpy()
    x = x if channels_first else x.transpose(0, 2, 3, 1)
    ours = keras.ops.convert_to_numpy(model(x, training=False))
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _to_tensor(value):
    if hasattr(value, "detach"):
        return value.detach().cpu().float()
    return torch.as_tensor(np.array(value))


def _from_paddle(tensors, twin):
    """Renames the statistics, and transposes the Linear weights, [in, out] in Paddle."""
    renamed = {}
    for key, tensor in tensors.items():
        key = key.replace("._mean", ".running_mean").replace("._variance", ".running_var")
        renamed[key] = tensor.T if tensor.ndim == 2 and key in twin else tensor
    return renamed
