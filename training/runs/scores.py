"""What a trained network gets right and wrong."""

import numpy as np
import tensorflow as tf


def evaluate(model, stream, flip=False):
    """Evaluates a model on labelled images, in their order.

    Args:
        model: A `keras.Model` from normalized images to logits.
        stream: A finite `tf.data.Dataset` of (normalized images, integer labels).
        flip: Whether the logits are the mean of an image's and of its mirror image's.

    Returns:
        Dictionary: `loss` (cross-entropy, nats), `top1`, `top5` (0–1), and the arrays `labels`,
        `predictions` [N], `probabilities` [N, classes].
    """
    labels = np.concatenate([batch.numpy() for _, batch in stream])
    logits = model.predict(stream.map(lambda images, _: images), verbose=0)
    if flip:
        mirrored = stream.map(lambda images, _: tf.reverse(images, [2]))
        logits = (logits + model.predict(mirrored, verbose=0)) / 2
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return {
        "loss": float(tf.reduce_mean(losses)),
        "top1": float(np.mean(tf.math.in_top_k(labels, logits, 1))),
        "top5": float(np.mean(tf.math.in_top_k(labels, logits, min(5, logits.shape[-1])))),
        "labels": labels,
        "predictions": logits.argmax(-1),
        "probabilities": tf.nn.softmax(logits).numpy(),
    }


def answered(scores):
    """Returns a mask of the images whose logits are finite; the others count as mistakes."""
    return np.isfinite(scores["probabilities"]).all(-1)


def accuracy_by_class(scores, class_names):
    """Returns (name, top-1) of each class, the worst first."""
    hits = (scores["labels"] == scores["predictions"]) & answered(scores)
    accuracies = [
        (name, float(hits[scores["labels"] == label].mean()))
        for label, name in enumerate(class_names)
        if np.any(scores["labels"] == label)
    ]
    return sorted(accuracies, key=lambda pair: pair[1])


def worst_confusions(scores, class_names, count=10):
    """Returns (label, prediction, images) of the class pairs that are mistaken most often."""
    classes = len(class_names)
    indices = scores["labels"] * classes + scores["predictions"]
    pairs = np.bincount(indices[answered(scores)], minlength=classes**2).reshape(classes, classes)
    np.fill_diagonal(pairs, 0)
    order = np.argsort(-pairs, axis=None, kind="stable")[:count]
    return [
        (class_names[index // classes], class_names[index % classes], int(pairs.flat[index]))
        for index in order
        if pairs.flat[index]
    ]


def surest_mistakes(scores, count=32):
    """Returns the indices of the mistakes that the network was surest of."""
    wrong = np.flatnonzero((scores["labels"] != scores["predictions"]) & answered(scores))
    sureness = scores["probabilities"][wrong].max(-1)
    return wrong[np.argsort(-sureness, kind="stable")[:count]]
