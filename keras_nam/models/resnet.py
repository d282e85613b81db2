"""ResNet: He et al., 2016, https://arxiv.org/abs/1512.03385, in PyTorch's and Paddle's form."""

from keras import layers

from keras_nam.models.blocks import channels_of, conv, normalization, pad

# A block's convolutions: (kernel size, channels as a multiple of the stage's width).
BASIC = ((3, 1), (3, 1))
BOTTLENECK = ((1, 1), (3, 1), (1, 4))


def resnet(images, block, depths, width, stem, attend):
    """Builds the network up to the features before the pooling.

    Args:
        images: Tensor of images.
        block: `BASIC` or `BOTTLENECK`.
        depths: The number of blocks in each stage.
        width: Channels of the first stage; each further stage doubles them.
        stem: `"cifar"` or `"imagenet"`, a key of `STEMS`.
        attend: Callable `(x, place, name) -> x` that adds the attention at its place.

    Returns:
        A tensor of features.
    """
    x = STEMS[stem](images, width)
    for stage, depth in enumerate(depths, start=1):
        for number in range(1, depth + 1):
            strides = 2 if stage > 1 and number == 1 else 1
            name = f"stage{stage}_block{number}"
            x = residual_block(x, block, width * 2 ** (stage - 1), strides, attend, name)
        if stage < len(depths):
            x = attend(x, "stage", f"stage{stage}")
    return x


def cifar_stem(images, width):
    """3x3, stride 1, no pooling: 32x32 images stay 32x32."""
    x = conv(images, width, 3, name="stem_conv")
    x = normalization(x, name="stem_bn")
    return layers.ReLU(name="stem_relu")(x)


def imagenet_stem(images, width):
    """7x7, stride 2, and a pooling of stride 2: 224x224 images become 56x56."""
    x = conv(images, width, 7, strides=2, name="stem_conv")
    x = normalization(x, name="stem_bn")
    x = layers.ReLU(name="stem_relu")(x)
    # After a ReLU, padding by 0 is padding by minus infinity.
    x = pad(x, 1, name="stem_pool")
    return layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)


STEMS = {"cifar": cifar_stem, "imagenet": imagenet_stem}


def residual_block(x, block, width, strides, attend, name):
    """`relu(shortcut(x) + attention(convolutions(x)))`; the first 3x3 convolution is strided."""
    shortcut = x
    strided = next(i for i, (kernel_size, _) in enumerate(block, start=1) if kernel_size == 3)
    for i, (kernel_size, expansion) in enumerate(block, start=1):
        filters = width * expansion
        x = conv(x, filters, kernel_size, strides if i == strided else 1, name=f"{name}_conv{i}")
        x = normalization(x, name=f"{name}_bn{i}")
        if i < len(block):
            x = layers.ReLU(name=f"{name}_relu{i}")(x)
    x = attend(x, "block", name)
    if strides > 1 or channels_of(shortcut) != filters:
        shortcut = conv(shortcut, filters, 1, strides, name=f"{name}_shortcut_conv")
        shortcut = normalization(shortcut, name=f"{name}_shortcut_bn")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_relu")(x)
