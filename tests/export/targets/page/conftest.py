"""What the page's tests share: a network's ONNX files in all precisions."""

import onnx
import pytest

from export.targets import onnx as onnx_target
from export.targets.exporter import calibration_images, file_name


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Function that writes a `Source`'s files of each precision and returns their paths."""

    def write(source, float32=None):
        folder = tmp_path_factory.mktemp("onnx")
        float32 = float32 or onnx_target.convert(source, opset=17)
        images = calibration_images(source, 8)
        for precision, convert in onnx_target.PRECISIONS.items():
            onnx.save(convert(float32, images), folder / file_name(precision, "onnx"))
        return sorted(folder.iterdir())

    return write


@pytest.fixture(scope="session")
def paths(written, source, float32_onnx):
    """Paths of r18w4_nam's files."""
    return written(source, float32_onnx)
