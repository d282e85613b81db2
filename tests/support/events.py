"""What TensorBoard reads."""

import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read(folder):
    """Returns tag -> (step -> array) of the event files in a folder."""
    written = accumulator(folder)
    return {
        tag: {event.step: tf.make_ndarray(event.tensor_proto) for event in written.Tensors(tag)}
        for tag in written.Tags()["tensors"]
    }


def accumulator(folder):
    return EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
