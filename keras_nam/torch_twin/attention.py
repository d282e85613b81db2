"""The attention layers in PyTorch, with the state-dict names of their published code."""

from collections import OrderedDict
from functools import partial

import torch
from torch import nn

from keras_nam import attention
from keras_nam.attention.eca import adaptive_kernel_size


class ChannelAtt(nn.Module):
    """`x * sigmoid(w * BN(x))`, `w = |weight| / sum |weight|`."""

    def __init__(self, channels):
        super().__init__()
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        weights = self.bn2.weight.abs() / self.bn2.weight.abs().sum()
        return x * torch.sigmoid(weights[:, None, None] * self.bn2(x))


class SpatialAtt(nn.Module):
    """The same with a weight for each position."""

    def __init__(self, positions):
        super().__init__()
        self.bn = nn.BatchNorm1d(positions)

    def forward(self, x):
        weights = self.bn.weight.abs() / self.bn.weight.abs().sum()
        normalized = self.bn(x.flatten(2).transpose(1, 2)).transpose(1, 2)
        return x * torch.sigmoid(weights * normalized).view_as(x)


class NAM(nn.Module):
    def __init__(self, channels, positions, channel=True, spatial=False):
        super().__init__()
        self.Channel_Att = ChannelAtt(channels) if channel else nn.Identity()
        self.Spatial_Att = SpatialAtt(positions) if spatial else nn.Identity()

    def forward(self, x):
        return self.Spatial_Att(self.Channel_Att(x))


class SE(nn.Module):
    def __init__(self, channels, positions):
        super().__init__()
        hidden = max(1, channels // 16)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, x):
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class ECA(nn.Module):
    def __init__(self, channels, positions):
        super().__init__()
        size = adaptive_kernel_size(channels)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x):
        return x * torch.sigmoid(self.conv(x.mean((2, 3))[:, None])[:, 0])[:, :, None, None]


class CBAM(nn.Module):
    def __init__(self, channels, positions):
        super().__init__()
        hidden = max(1, channels // 16)
        mlp = [nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)]
        self.ChannelGate = nn.ModuleDict({"mlp": nn.Sequential(*mlp)})
        conv, bn = nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1)
        self.SpatialGate = nn.ModuleDict({"spatial": nn.ModuleDict({"conv": conv, "bn": bn})})

    def forward(self, x):
        mlp, spatial = self.ChannelGate["mlp"], self.SpatialGate["spatial"]
        gates = torch.sigmoid(mlp(x.mean((2, 3))) + mlp(x.amax((2, 3))))
        x = x * gates[:, :, None, None]
        pools = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(spatial["bn"](spatial["conv"](pools)))


class BAM(nn.Module):
    def __init__(self, channels, positions):
        super().__init__()
        hidden = max(1, channels // 16)
        channel = {
            "gate_c_fc_0": nn.Linear(channels, hidden),
            "gate_c_bn_1": nn.BatchNorm1d(hidden),
            "gate_c_relu_1": nn.ReLU(),
            "gate_c_fc_final": nn.Linear(hidden, channels),
        }
        spatial = {
            "gate_s_conv_reduce0": nn.Conv2d(channels, hidden, 1),
            "gate_s_bn_reduce0": nn.BatchNorm2d(hidden),
            "gate_s_relu_reduce0": nn.ReLU(),
        }
        for i in range(2):
            spatial[f"gate_s_conv_di_{i}"] = nn.Conv2d(hidden, hidden, 3, padding=4, dilation=4)
            spatial[f"gate_s_bn_di_{i}"] = nn.BatchNorm2d(hidden)
            spatial[f"gate_s_relu_di_{i}"] = nn.ReLU()
        spatial["gate_s_conv_final"] = nn.Conv2d(hidden, 1, 1)
        self.channel_att = nn.ModuleDict({"gate_c": nn.Sequential(OrderedDict(channel))})
        self.spatial_att = nn.ModuleDict({"gate_s": nn.Sequential(OrderedDict(spatial))})

    def forward(self, x):
        channel = self.channel_att["gate_c"](x.mean((2, 3)))[:, :, None, None]
        return x * (1 + torch.sigmoid(channel * self.spatial_att["gate_s"](x)))


# Layer -> the callable that makes its twin from the number of channels and of positions.
TWINS = {
    attention.NAMChannelAttention: NAM,
    attention.NAMSpatialAttention: partial(NAM, channel=False, spatial=True),
    attention.NAM: partial(NAM, spatial=True),
    attention.SqueezeExcite: SE,
    attention.ECA: ECA,
    attention.CBAM: CBAM,
    attention.BAM: BAM,
}


def attach(module, row, place, channels, positions, number=""):
    """Adds the attention of an `ATTENTIONS` row to a module, if it belongs to the place.

    The attribute, such as `nam` or `bam1`, is named after the twin's class. Returns the layer, or
    an identity.
    """
    if row is None or row.place != place:
        return nn.Identity()
    layer = TWINS[getattr(row.layer, "func", row.layer)](channels, positions)
    module.add_module(f"{type(layer).__name__.lower()}{number}", layer)
    return layer
