"""ResNet and MobileNetV2 in PyTorch, with the state-dict names of each checkpoint format."""

import torch
from torch import nn
from torch.nn import functional

from keras_nam.models.mobilenet_v2 import HEAD, STAGES, WIDTH, make_divisible
from keras_nam.torch_twin.attention import BAM, BLOCK_ATTENTIONS


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


class Block(nn.Module):
    """Convolutions, an attention, a shortcut: under weiaicunzai's names, or the official ones."""

    def __init__(self, channels, sizes, filters, stride, style, attention, positions):
        super().__init__()
        layers = convolutions(channels, sizes, filters, stride)
        self.attention = None
        if style == "weiaicunzai":
            self.residual_function = nn.Sequential(*layers)
        else:
            for i, layer in enumerate(layers):
                if i % 3 < 2:
                    setattr(self, f"{('conv', 'bn')[i % 3]}{i // 3 + 1}", layer)
        if attention in BLOCK_ATTENTIONS:
            self.attention, make = BLOCK_ATTENTIONS[attention]
            setattr(self, self.attention, make(filters[-1], positions))
        self.shortcut_name = "shortcut" if style == "weiaicunzai" else "downsample"
        shortcut = nn.Sequential()
        if stride > 1 or channels != filters[-1]:
            shortcut = nn.Sequential(*convolutions(channels, [1], filters[-1:], stride))
        setattr(self, self.shortcut_name, shortcut)
        self.depth = len(sizes)

    def forward(self, x):
        y = x
        if hasattr(self, "residual_function"):
            y = self.residual_function(y)
        else:
            for i in range(1, self.depth + 1):
                y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
                y = torch.relu(y) if i < self.depth else y
        y = getattr(self, self.attention)(y) if self.attention else y
        return torch.relu(y + getattr(self, self.shortcut_name)(x))


class ResNet(nn.Module):
    """A ResNet, `style` being `"official"` or `"weiaicunzai"`."""

    def __init__(self, depths, block, width, attention, classes, stem, size, style):
        super().__init__()
        self.style, self.imagenet = style, stem == "imagenet"
        kernel, stride = (7, 2) if self.imagenet else (3, 1)
        conv = nn.Conv2d(3, width, kernel, stride, padding=kernel // 2, bias=False)
        size = size // 4 if self.imagenet else size
        if style == "weiaicunzai":
            self.conv1 = nn.Sequential(conv, nn.BatchNorm2d(width))
        else:
            self.conv1, self.bn1 = conv, nn.BatchNorm2d(width)
        channels = width
        for stage, depth in enumerate(depths):
            filters = [width * 2**stage * expansion for _, expansion in block]
            blocks = []
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                size //= stride
                sizes = [kernel for kernel, _ in block]
                blocks.append(Block(channels, sizes, filters, stride, style, attention, size**2))
                channels = filters[-1]
            setattr(self, self.stage_name(stage), nn.Sequential(*blocks))
            bam = attention == "bam" and stage < 3
            setattr(self, f"bam{stage + 1}", BAM(channels) if bam else nn.Identity())
        self.fc = nn.Linear(channels, classes)

    def stage_name(self, stage):
        return f"conv{stage + 2}_x" if self.style == "weiaicunzai" else f"layer{stage + 1}"

    def forward(self, x):
        x = self.conv1(x)
        x = torch.relu(x if self.style == "weiaicunzai" else self.bn1(x))
        x = functional.max_pool2d(x, 3, 2, padding=1) if self.imagenet else x
        for stage in range(4):
            x = getattr(self, f"bam{stage + 1}")(getattr(self, self.stage_name(stage))(x))
        return self.fc(x.mean((2, 3)))


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
        self.attention = None
        if attention in BLOCK_ATTENTIONS:
            self.attention, make = BLOCK_ATTENTIONS[attention]
            setattr(self, self.attention, make(filters, positions))
        self.is_residual = stride == 1 and channels == filters

    def forward(self, x):
        y = self.residual(x)
        y = getattr(self, self.attention)(y) if self.attention else y
        return x + y if self.is_residual else y


class MobileNetV2(nn.Module):
    """weiaicunzai's MobileNetV2, its stem a padded 1x1 convolution; `"imagenet"`: 3x3, stride 2."""

    def __init__(self, width, attention, classes, stem, size):
        super().__init__()
        kernel, stride, size = (3, 2, size // 2) if stem == "imagenet" else (1, 1, size + 2)
        self.pre = nn.Sequential(
            nn.Conv2d(3, width, kernel, stride, padding=1), nn.BatchNorm2d(width), nn.ReLU6()
        )
        channels, self.bams = width, {}
        for stage, (expansion, filters, depth, strides) in enumerate(STAGES, start=1):
            if attention == "bam" and strides[stem] > 1:
                setattr(self, f"bam{stage - 1}", BAM(channels))
            filters, blocks = make_divisible(filters * width / WIDTH), []
            for i in range(depth):
                stride = strides[stem] if i == 0 else 1
                size = -(-size // stride)
                blocks.append(
                    InvertedResidual(channels, expansion, filters, stride, attention, size**2)
                )
                channels = filters
            setattr(self, f"stage{stage}", nn.Sequential(*blocks) if depth > 1 else blocks[0])
        head = make_divisible(HEAD * max(1.0, width / WIDTH))
        self.conv1 = nn.Sequential(nn.Conv2d(channels, head, 1), nn.BatchNorm2d(head), nn.ReLU6())
        self.conv2 = nn.Conv2d(head, classes, 1)

    def forward(self, x):
        x = self.pre(x)
        for stage in range(1, len(STAGES) + 1):
            x = getattr(self, f"stage{stage}")(x)
            x = getattr(self, f"bam{stage}")(x) if hasattr(self, f"bam{stage}") else x
        return self.conv2(self.conv1(x).mean((2, 3), keepdim=True)).flatten(1)
