"""Against a real TensorFlow Serving, which `TF_SERVING_URL` names.

It serves a model `keras_nam`, whose run folder `TF_SERVING_RUN` names.
"""

import os

import numpy as np
import pytest

from export.runtime.rest import RestClient
from export.verification.source import open_source
from training.cli import InputError

URL = os.environ.get("TF_SERVING_URL")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not URL, reason="no TF_SERVING_URL")]


def test_a_real_server():
    client, served = RestClient(URL), open_source(os.environ["TF_SERVING_RUN"])
    assert "AVAILABLE" in client.status().values()
    images = served.dataset.test.images[:8].astype(np.float32)
    for shape in ((32, 32, 3), (2, 8, 8, 3), (2, 32, 32, 4), (2,)):
        with pytest.raises(InputError, match="answered 400"):
            client.predict(np.zeros(shape, np.float32))
    with pytest.raises(InputError, match="finite"):
        client.predict(np.full((1, 32, 32, 3), np.nan, np.float32))
    found = client.predict(images)
    np.testing.assert_allclose(found.logits, served.evaluate(images), atol=5e-5)
