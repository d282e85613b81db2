"""Where a training step's time goes: TensorFlow's own profile, by the type of operation."""

import re
import tempfile
from collections import Counter
from pathlib import Path

import tensorflow as tf

STEPS = 3
SHOWN = 14
# An event of an operation is "name:Type"; most of the others are the executor's, which hold them.
OPERATION = re.compile(r"[^:]+:_?(?:MklNative)?_?([A-Z]\w*)$")
# What XLA has compiled runs within this one.
COMPILED = "CpuExecutable::ExecuteAsyncOnStream"
# They hold operations that have events of their own.
HOLDING = ("PartitionedCall", "StatefulPartitionedCall")


def by_operation(step):
    """Returns rows `operation`, `milliseconds` a step and `share`, the longest first.

    Operations that run beside each other each count in full: the shares are of the sum.

    Args:
        step: Function of no arguments that makes a step on the CPU.

    Returns:
        A list of dictionaries, the last one the sum of all that are not shown; or `None` where
        TensorFlow's profile cannot be read.
    """
    try:
        picoseconds = Counter()
        for operation, duration in operations(step):
            picoseconds[operation] += duration
    except ImportError:
        return None
    return rows({name: duration / 1e9 / STEPS for name, duration in picoseconds.items()})


def operations(step):
    """Returns a list of (type of operation, picoseconds), each that some steps ran.

    Raises:
        ImportError: Where TensorFlow's profile cannot be read.
    """
    # No public place of TensorFlow's has it.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(STEPS):
                step()
        for file in Path(folder).rglob("*.xplane.pb"):
            space.MergeFromString(file.read_bytes())
    events = [
        (operation_of(plane.event_metadata[event.metadata_id].name), event.duration_ps)
        for plane in space.planes
        for line in plane.lines
        for event in line.events
    ]
    return [(operation, duration) for operation, duration in events if operation]


def operation_of(event):
    """Returns the type of operation of an event's name, or `None` if it is not an operation's."""
    if event == COMPILED:
        return "compiled by XLA"
    found = OPERATION.match(event)
    return found[1] if found and found[1] not in HOLDING else None


def rows(milliseconds):
    """Returns the rows of a dictionary type of operation -> milliseconds a step."""
    whole = sum(milliseconds.values())
    ordered = sorted(milliseconds.items(), key=lambda item: -item[1])
    shown, others = ordered[:SHOWN], ordered[SHOWN:]
    if others:
        shown.append((f"{len(others)} others", sum(time for _, time in others)))
    return [
        {"operation": name, "milliseconds": round(time, 3), "share": round(time / whole, 4)}
        for name, time in shown
    ]
