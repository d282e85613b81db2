"""The training step of the same network in PyTorch, with the official block. Needs PyTorch."""

import torch
from torch import nn

import keras_nam
from keras_nam.torch_twin import create_twin
from keras_nam.torch_twin.attention import NAM


class OfficialBlock(nn.Module):
    """The channel attention as the official code has it, on the normalization `bn2`."""

    def __init__(self, bn2):
        super().__init__()
        self.bn2 = bn2

    def forward(self, x):
        residual = x
        x = self.bn2(x)
        magnitude = self.bn2.weight.data.abs()
        weights = magnitude / torch.sum(magnitude)
        x = x.permute(0, 2, 3, 1).contiguous()
        x = torch.mul(weights, x)
        x = x.permute(0, 3, 1, 2).contiguous()
        return torch.sigmoid(x) * residual


def training_step(model, task, learning_rate):
    """Returns a function of no arguments that makes a step and returns its loss, and its settings.

    Args:
        model: The Keras model whose weights it begins with.
        task: A `Task`.
        learning_rate: Float.
    """
    torch.set_num_threads(task.threads)
    # As TensorFlow is told on a GPU.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    device = "cuda" if task.device == "GPU" else "cpu"
    network = _official(create_twin(task.arch, model.output_shape[-1]))
    arrays = keras_nam.to_torch_state_dict(model)
    network.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()})
    network.to(device).train()
    images = torch.from_numpy(task.images.transpose(0, 3, 1, 2).copy()).to(device)
    labels = torch.from_numpy(task.labels).long().to(device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=learning_rate, momentum=0.9, weight_decay=5e-4
    )
    cross_entropy = nn.CrossEntropyLoss()

    def step():
        optimizer.zero_grad()
        loss = cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    settings = {
        "batch_size": len(images),
        "dtype": str(next(network.parameters()).dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    return step, settings


def _official(network):
    """Returns a network whose channel attentions are the official code's, under the same names."""
    for module in network.modules():
        if isinstance(module, NAM):
            module.Channel_Att = OfficialBlock(module.Channel_Att.bn2)
    return network
