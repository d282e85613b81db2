"""224 pixels with the ImageNet stem, from a folder of pictures to verified exports."""

import pytest

from export import to_litert, to_onnx
from tests.support import picture_folder
from training import train
from training.runs import files

pytestmark = pytest.mark.slow


def test_r50_nam_trains_and_is_exported(tmp_path):
    """Two steps."""
    folder = picture_folder.make(tmp_path / "pictures", count=10)
    run = tmp_path / "run"
    words = f"--dataset {folder} --arch r50_nam --recipe finetune --image-size 224 --stem imagenet"
    words += f" --batch-size 4 --steps-per-epoch 2 --epochs 1 --quiet --run-dir {run}"
    train.main(words.split())
    assert files.read_json(run / "config.json")["image_size"] == [224, 224]
    for export, kind, suffix in ((to_onnx, "onnx", "onnx"), (to_litert, "litert", "tflite")):
        export.main(["--run", str(run)])
        assert (run / kind / f"model.{suffix}").is_file()
        assert files.read_json(run / kind / "verification.json")["verdict"] == "verified"
