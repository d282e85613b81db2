"""The gate's weights from the scales: the paper's, and others to compare them with."""

from keras import ops


def _share(magnitude, total, xp):
    # Where every gamma is 0, 0/1: a small number instead would overflow in the gradient.
    return magnitude / xp.where(total > 0, total, xp.ones_like(total))


WEIGHTINGS = {
    "sum": lambda m, xp: _share(m, xp.sum(m), xp),
    "mean": lambda m, xp: _share(m, xp.mean(m), xp),
    "max": lambda m, xp: _share(m, xp.max(m), xp),
    "unnormalized": lambda m, xp: m,
    "uniform": lambda m, xp: xp.ones_like(m) / m.shape[0],
    "constant": lambda m, xp: xp.zeros_like(m),
}


def weights(weighting, magnitude, xp=ops):
    """Returns the weight of each channel (or position) in the gate `sigmoid(w * BN(x))`.

    | weighting | w | meaning |
    |---|---|---|
    | `"sum"` | abs(gamma) / sum(abs(gamma)) | the paper's, about 1/C: the gate stays near 0.5 |
    | `"mean"` | abs(gamma) / mean(abs(gamma)) | 1 on average, for any number of channels |
    | `"max"` | abs(gamma) / max(abs(gamma)) | in 0–1 for any number of channels |
    | `"unnormalized"` | abs(gamma) | the gate opens as far as it learns to |
    | `"uniform"` | 1 / C | no attention among channels: equal weights |
    | `"constant"` | 0 | no gate: every value is halved |

    Args:
        weighting: String, one of `WEIGHTINGS`.
        magnitude: abs(gamma), [C].
        xp: `keras.ops` for tensors, `numpy` for arrays.
    """
    return WEIGHTINGS[weighting](magnitude, xp)
