"""MobileNetV2: Sandler et al., 2018, https://arxiv.org/abs/1801.04381, in its CIFAR form."""

from keras import layers

from keras_nam.models.blocks import channels_of, conv, depthwise_conv, normalization, pad

# A stage: (expansion, channels, blocks, strides by stem).
STAGES = (
    (1, 16, 1, {"cifar": 1, "imagenet": 1}),
    (6, 24, 2, {"cifar": 2, "imagenet": 2}),
    (6, 32, 3, {"cifar": 2, "imagenet": 2}),
    (6, 64, 4, {"cifar": 2, "imagenet": 2}),
    (6, 96, 3, {"cifar": 1, "imagenet": 1}),
    (6, 160, 3, {"cifar": 1, "imagenet": 2}),
    (6, 320, 1, {"cifar": 1, "imagenet": 1}),
)
WIDTH = 32
HEAD = 1280


def mobilenet_v2(images, width, stem, attend):
    """Builds the network up to the features before the pooling.

    The CIFAR form follows weiaicunzai's pytorch-cifar100, with its convolution biases and its stem,
    a 1x1 convolution of the padded image. The ImageNet form differs from it in the paper's stem
    (3x3, stride 2) and strides.

    Args:
        images: Tensor of images.
        width: Channels of the stem, 32 in the paper; the other channels scale with it.
        stem: `"cifar"` or `"imagenet"`.
        attend: Callable `(x, place, name) -> x` that adds the attention at its place.

    Returns:
        A tensor of features.
    """
    multiplier = width / WIDTH
    if stem == "cifar":  # 32x32 images become 34x34
        x = conv_bn_relu6(pad(images, 1, name="stem_conv"), width, "stem")
    else:
        x = conv_bn_relu6(images, width, "stem", kernel_size=3, strides=2)
    for stage, (expansion, channels, depth, strides) in enumerate(STAGES, start=1):
        if stage > 1 and strides[stem] > 1:
            x = attend(x, "stage", f"stage{stage - 1}")
        filters = make_divisible(channels * multiplier)
        for number in range(1, depth + 1):
            block_strides = strides[stem] if number == 1 else 1
            name = f"stage{stage}_block{number}"
            x = inverted_residual(x, expansion, filters, block_strides, attend, name)
    return conv_bn_relu6(x, make_divisible(HEAD * max(1.0, multiplier)), "head")


def make_divisible(channels, divisor=8):
    """Returns the nearest multiple of `divisor`, not below 90% of `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


def conv_bn_relu6(x, filters, name, kernel_size=1, strides=1):
    """A convolution, its normalization and a ReLU clipped at 6."""
    x = conv(x, filters, kernel_size, strides, name=f"{name}_conv", use_bias=True)
    x = normalization(x, name=f"{name}_bn")
    return layers.ReLU(max_value=6.0, name=f"{name}_relu")(x)


def inverted_residual(x, expansion, filters, strides, attend, name):
    """1x1 to `expansion` times the channels, depthwise 3x3, 1x1 to `filters`."""
    shortcut = x
    expanded = channels_of(x) * expansion
    x = conv(x, expanded, 1, name=f"{name}_conv1", use_bias=True)
    x = normalization(x, name=f"{name}_bn1")
    x = layers.ReLU(max_value=6.0, name=f"{name}_relu1")(x)
    x = depthwise_conv(x, 3, strides, name=f"{name}_conv2")
    x = normalization(x, name=f"{name}_bn2")
    x = layers.ReLU(max_value=6.0, name=f"{name}_relu2")(x)
    x = conv(x, filters, 1, name=f"{name}_conv3", use_bias=True)
    x = normalization(x, name=f"{name}_bn3")
    x = attend(x, "block", name)
    if strides == 1 and channels_of(shortcut) == filters:
        x = layers.Add(name=f"{name}_add")([x, shortcut])
    return x
