"""NAM against the numbers of the official PyTorch modules and of the Paddle port."""

import pytest

from tests.support.backends import training_step
from tests.support.weights.golden_modules import biased_variance, cases, layer_of, relative_error

CASES = cases()
# Float32 rounding in sums of some hundred terms; 3e-7 was measured.
TOLERANCE = 1e-5


@pytest.mark.parametrize("case", CASES)
def test_outputs_gradients_and_statistics(case):
    arrays = CASES[case]
    layer = layer_of(case, arrays)
    assert relative_error(layer(arrays["x"], training=False), arrays["y_eval"]) < TOLERANCE

    outputs, dx, dgamma, dbeta = training_step(layer, arrays["x"], arrays["gy"])
    assert relative_error(outputs, arrays["y_train"]) < TOLERANCE
    assert relative_error(dx, arrays["dx"]) < TOLERANCE
    assert relative_error(dgamma, arrays["dgamma"]) < TOLERANCE
    assert relative_error(dbeta, arrays["dbeta"]) < TOLERANCE
    assert relative_error(layer.moving_mean, arrays["new_running_mean"]) < TOLERANCE
    assert relative_error(layer.moving_variance, biased_variance(case, arrays)) < TOLERANCE
