"""Correct and wrong predictions of a trained network."""

import numpy as np
import tensorflow as tf


def evaluate(model, stream, flip=False):
    """Evaluates a model on labelled images, in their order.

    Args:
        model: A `keras.Model` from normalized images to logits.
        stream: A finite `tf.data.Dataset` of (normalized images, integer labels).
        flip: Whether each image's logits are averaged with its mirror image's.

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
    """Returns (label, prediction, images) of the most frequent confusions."""
    wrong = (scores["labels"] != scores["predictions"]) & answered(scores)
    pairs = np.stack([scores["labels"], scores["predictions"]], 1)[wrong]
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:count]
    return [(*(class_names[label] for label in found[i]), int(counts[i])) for i in order]


def surest_mistakes(scores, count):
    """Returns the indices of the mistakes with the highest probabilities."""
    wrong = np.flatnonzero((scores["labels"] != scores["predictions"]) & answered(scores))
    sureness = scores["probabilities"][wrong].max(-1)
    return wrong[np.argsort(-sureness, kind="stable")[:count]]
