"""How a training would scale: the time of a step on many devices, from a few numbers.

A step takes what a device needs for its share of the batch, and a ring all-reduce of the gradients,
`2 (N - 1) / N * bytes / bandwidth + 2 (N - 1) * latency` on N devices. Either follows on the other,
or the one hides behind the other wholly: the truth lies between.
"""

from dataclasses import dataclass

DEVICES = (8, 64, 512)
IMAGES = 50_000  # CIFAR's training set
EFFICIENT = 0.5
MOST = 1 << 20  # devices


@dataclass(frozen=True)
class Network:
    """What connects the devices: bytes a second of each, and seconds of each hop; assumed."""

    name: str
    bandwidth: float
    latency: float
    source: str


NETWORKS = (
    Network("100 Gbit/s", 12.5e9, 20e-6, "the rate by name; 19.8 µs: aws-ofi-nccl's tuner, ring"),
    Network("NVLink", 300e9, 5e-6, "an A100's 600 GB/s for both ways; 3.6 µs in the same tuner"),
)


@dataclass(frozen=True)
class Training:
    """What is trained, on what devices.

    Attributes:
        name: String.
        image_seconds: Seconds of one image on one device; a batch takes as many times as much.
        gradient_bytes: What the devices exchange once a step.
        waits: The small all-reduces of a step that the next layer waits for: those of the
            statistics of normalizations over the whole batch. 0 where each device has its own.
    """

    name: str
    image_seconds: float
    gradient_bytes: int
    waits: int = 0


def all_reduce_seconds(devices, size, network):
    """Returns the seconds of a ring all-reduce of `size` bytes."""
    hops = 2 * (devices - 1)
    return hops / devices * size / network.bandwidth + hops * network.latency


def step_seconds(training, batch, devices, network):
    """Returns the seconds of a step with `batch` images a device: (no overlap, full overlap)."""
    compute = batch * training.image_seconds
    compute += training.waits * all_reduce_seconds(devices, 0, network)
    exchange = all_reduce_seconds(devices, training.gradient_bytes, network)
    return compute + exchange, max(compute, exchange)


def weak(training, batch, devices, network):
    """Returns the efficiencies, images a second by devices times those of one, batch each.

    The first is without overlap, the second with full overlap.
    """
    one = batch * training.image_seconds
    return tuple(one / step for step in step_seconds(training, batch, devices, network))


def strong(training, batch, devices, network):
    """Returns the efficiencies with `batch` images over all devices; `None` if some have none."""
    if devices > batch:
        return None
    one = batch * training.image_seconds
    steps = step_seconds(training, batch / devices, devices, network)
    return tuple(one / devices / step for step in steps)


def last_efficient(efficiency, bound):
    """Returns the most devices that are used to a half or more; `None` if `MOST` still are.

    Args:
        efficiency: Function of a number of devices, which falls with it, as `weak` or `strong`.
        bound: 0 without overlap, 1 with full overlap.
    """

    def enough(devices):
        found = efficiency(devices)
        return found is not None and found[bound] >= EFFICIENT

    if enough(MOST):
        return None
    low, high = 1, MOST  # one device is its own measure
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low


def batch_limits(batch, devices, critical):
    """Returns what a batch of `batch` images for each device leaves of the training.

    After McCandlish et al. (2018, arXiv 1812.06162) a training needs `1 + critical / B` times the
    least steps with a batch of B. So more devices, even if they exchange nothing, save no more time
    than steps.
    """
    whole = batch * devices
    return {
        "devices": devices,
        "batch": whole,
        "steps_an_epoch": IMAGES // whole,
        "speedup": (1 + critical / batch) / (1 + critical / whole),
    }
