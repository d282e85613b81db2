"""The server's configuration files in docs/serving, as far as there is no server to read them."""

import re
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from export.runtime import classification
from export.runtime.rest import RestClient

FOLDER = Path(__file__).parents[3] / "docs" / "serving"
DEFAULT_NAME = RestClient.__init__.__defaults__[0]


def test_model_config_is_what_the_server_parses():
    text = (FOLDER / "model.config").read_text()
    parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = parsed.model_config_list.config
    assert (model.name, model.base_path) == (DEFAULT_NAME, f"/models/{DEFAULT_NAME}")
    assert set(model.version_labels.values()) <= set(model.model_version_policy.specific.versions)


def test_batches_hold_what_predict_sends():
    text = (FOLDER / "batching_parameters.txt").read_text()
    assert (
        int(re.search(r"max_batch_size \{ value: (\d+) \}", text)[1]) >= classification.BATCH_SIZE
    )


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_guide_links_and_mounts_every_file(path):
    guide = FOLDER.with_suffix(".md").read_text()
    assert f"(serving/{path.name})" in guide
    assert f"=/config/{path.name}" in guide
