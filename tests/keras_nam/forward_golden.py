"""Prints as JSON the errors of each golden case's outputs, on the backend of KERAS_BACKEND."""

import json
import sys

import keras
from golden_modules import biased_variance, cases, layer_of, relative_error
from keras import ops

errors = {}
for case, arrays in cases().items():
    layer = layer_of(case, arrays)
    x = ops.convert_to_tensor(arrays["x"])
    results = {
        "y_eval": (layer(x, training=False), arrays["y_eval"]),
        "y_train": (layer(x, training=True), arrays["y_train"]),
        "moving_mean": (layer.moving_mean, arrays["new_running_mean"]),
        "moving_variance": (layer.moving_variance, biased_variance(case, arrays)),
    }
    for name, (actual, expected) in results.items():
        errors[f"{case}/{name}"] = relative_error(ops.convert_to_numpy(actual), expected)
json.dump({"backend": keras.backend.backend(), "errors": errors}, sys.stdout)
