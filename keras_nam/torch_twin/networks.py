"""ResNet and MobileNetV2 in PyTorch, with the state-dict names of each checkpoint format."""

import torch
from torch import nn

from keras_nam.models.mobilenet_v2 import HEAD, STAGES, WIDTH, make_divisible
from keras_nam.torch_twin.attention import attach


def convolutions(channels, sizes, filters, stride, groups=None, bias=False, act=nn.ReLU):
    """Returns convolution, normalization, activation, ... without the last activation."""
    layers = []
    strided = sizes.index(3) if 3 in sizes else 0
    for i, (size, width) in enumerate(zip(sizes, filters, strict=True)):
        conv = nn.Conv2d(
            channels,
            width,
            size,
            stride if i == strided else 1,
            padding=size // 2,
            groups=groups[i] if groups else 1,
            bias=bias,
        )
        layers += [conv, nn.BatchNorm2d(width), act()]
        channels = width
    return layers[:-1]


def run(layers, x):
    """Calls layers in turn. They stand in a list, so that they add no names to the state dict."""
    for layer in layers:
        x = layer(x)
    return x


class Block(nn.Module):
    """Convolutions, an attention, a shortcut, under weiaicunzai's names or the official ones."""

    def __init__(self, channels, sizes, filters, stride, style, attention, positions):
        super().__init__()
        layers = convolutions(channels, sizes, filters, stride)
        if style == "weiaicunzai":
            self.residual_function = nn.Sequential(*layers)
        else:
            for i, layer in enumerate(layers):
                if i % 3 < 2:
                    setattr(self, f"{('conv', 'bn')[i % 3]}{i // 3 + 1}", layer)
        shortcut = []
        if stride > 1 or channels != filters[-1]:
            shortcut = convolutions(channels, [1], filters[-1:], stride)
        name = "shortcut" if style == "weiaicunzai" else "downsample"
        setattr(self, name, nn.Sequential(*shortcut))
        attend = attach(self, attention, "block", filters[-1], positions)
        self.residual, self.identity = [*layers, attend], shortcut

    def forward(self, x):
        return torch.relu(run(self.residual, x) + run(self.identity, x))


class ResNet(nn.Module):
    """A ResNet, `style` being `"official"` or `"weiaicunzai"`."""

    def __init__(self, depths, block, width, attention, classes, stem, size, style):
        super().__init__()
        imagenet, weiaicunzai = stem == "imagenet", style == "weiaicunzai"
        kernel, stride = (7, 2) if imagenet else (3, 1)
        conv = nn.Conv2d(3, width, kernel, stride, padding=kernel // 2, bias=False)
        size = -(-size // 4) if imagenet else size  # rounded up, as by padded convolutions
        if weiaicunzai:
            self.conv1 = nn.Sequential(conv, nn.BatchNorm2d(width))
            self.path = [self.conv1, nn.ReLU()]
        else:
            self.conv1, self.bn1 = conv, nn.BatchNorm2d(width)
            self.path = [self.conv1, self.bn1, nn.ReLU()]
        if imagenet:
            self.path.append(nn.MaxPool2d(3, 2, padding=1))
        channels = width
        for stage, depth in enumerate(depths, start=1):
            filters = [width * 2 ** (stage - 1) * expansion for _, expansion in block]
            sizes = [kernel for kernel, _ in block]
            blocks = nn.Sequential()
            for i in range(depth):
                stride = 2 if stage > 1 and i == 0 else 1
                size = -(-size // stride)
                blocks.append(Block(channels, sizes, filters, stride, style, attention, size**2))
                channels = filters[-1]
            setattr(self, f"conv{stage + 1}_x" if weiaicunzai else f"layer{stage}", blocks)
            self.path.append(blocks)
            if stage < len(depths):
                self.path.append(attach(self, attention, "stage", channels, size**2, stage))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        return self.fc(run(self.path, x).mean((2, 3)))


class InvertedResidual(nn.Module):
    def __init__(self, channels, expansion, filters, stride, attention, positions):
        super().__init__()
        expanded = channels * expansion
        self.residual = nn.Sequential(
            *convolutions(
                channels,
                sizes=[1, 3, 1],
                filters=[expanded, expanded, filters],
                stride=stride,
                groups=[1, expanded, 1],
                bias=True,
                act=nn.ReLU6,
            )
        )
        self.branch = [self.residual, attach(self, attention, "block", filters, positions)]
        self.is_residual = stride == 1 and channels == filters

    def forward(self, x):
        y = run(self.branch, x)
        return x + y if self.is_residual else y


class MobileNetV2(nn.Module):
    """weiaicunzai's MobileNetV2, its stem a padded 1x1 convolution; `"imagenet"`: 3x3, stride 2."""

    def __init__(self, width, attention, classes, stem, size):
        super().__init__()
        kernel, stride, size = (3, 2, -(-size // 2)) if stem == "imagenet" else (1, 1, size + 2)
        self.pre = nn.Sequential(
            nn.Conv2d(3, width, kernel, stride, padding=1), nn.BatchNorm2d(width), nn.ReLU6()
        )
        self.path = [self.pre]
        channels = width
        for stage, (expansion, filters, depth, strides) in enumerate(STAGES, start=1):
            if strides[stem] > 1:
                self.path.append(attach(self, attention, "stage", channels, size**2, stage - 1))
            filters, blocks = make_divisible(filters * width / WIDTH), []
            for i in range(depth):
                stride = strides[stem] if i == 0 else 1
                size = -(-size // stride)
                blocks.append(
                    InvertedResidual(channels, expansion, filters, stride, attention, size**2)
                )
                channels = filters
            setattr(self, f"stage{stage}", nn.Sequential(*blocks) if depth > 1 else blocks[0])
            self.path.append(getattr(self, f"stage{stage}"))
        head = make_divisible(HEAD * max(1.0, width / WIDTH))
        self.conv1 = nn.Sequential(nn.Conv2d(channels, head, 1), nn.BatchNorm2d(head), nn.ReLU6())
        self.conv2 = nn.Conv2d(head, classes, 1)

    def forward(self, x):
        x = self.conv1(run(self.path, x))
        return self.conv2(x.mean((2, 3), keepdim=True)).flatten(1)
