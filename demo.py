"""Demo: trains a small NAM network, exports it, verifies the export, and classifies pictures."""

import os
import shutil
from pathlib import Path

from PIL import Image

from export import predict, to_onnx, to_page
from training import cli, evaluate, train

FOLDER = Path("runs/demo")
# CIFAR-100: 6 minutes on 2 cores with AVX-512 (see README.md); synthetic: 2 to 15 s an epoch.
SETTINGS = {
    "cifar100": ["--recipe", "progressive", "--epochs", "3"],
    "synthetic": ["--recipe", "fast", "--epochs", "12"],
}
PICTURES = 8


def main():
    """Trains on CIFAR-100 if it is on the disk, or else on the embedded synthetic set."""
    cli.Parser(__doc__).parse_args()  # no options but --help
    dataset = "cifar100" if on_disk() else "synthetic"
    print(
        f"Demo: r18w16_nam, a ResNet-18 of width 16 with NAM, on {dataset}, a few epochs only: "
        "its accuracy shows that the pipeline learns, not what the network can reach."
    )
    if dataset == "synthetic":
        print("(CIFAR-100 was not found: set TFDS_DATA_DIR to a folder that holds it.)")
    shutil.rmtree(FOLDER, ignore_errors=True)
    what = ["--arch", "r18w16_nam", "--dataset", dataset]
    train.main([*what, *SETTINGS[dataset], "--run-dir", str(FOLDER)])
    evaluate.main([str(FOLDER)])
    to_onnx.main(["--run", str(FOLDER)])
    model = str(FOLDER / "onnx" / "model.onnx")
    classify_pictures(dataset, model)
    page = write_page()
    print(
        f"""
curves:      {FOLDER / "curves.png"}
mistakes:    {FOLDER / "mistakes.png"}
predictions: {FOLDER / "predictions.png"}
SavedModel:  {FOLDER / "saved_model"} (TensorFlow Serving's base path)
ONNX:        {model}, verified: {FOLDER / "onnx" / "verification.json"}
page:        {page}
TensorBoard: .venv/bin/tensorboard --logdir runs
next:        .venv/bin/python export/predict.py IMAGE.png
             .venv/bin/python training/train.py --arch r18w16_nam --recipe fast"""
    )


def classify_pictures(dataset, model):
    """Classifies some test images as PNG files, and draws the predictions."""
    from export.runtime.local_models import open_model
    from training.data import datasets
    from training.runs import plots

    loaded = datasets.load(dataset)
    test, names = loaded.test.take(slice(PICTURES)), loaded.class_names
    (FOLDER / "pictures").mkdir()
    paths = [str(FOLDER / "pictures" / f"test-{index}.png") for index in range(PICTURES)]
    for path, image in zip(paths, test.images, strict=True):
        Image.fromarray(image).save(path)
    predict.main([*paths, "--model", model, "--top", "2"])
    probabilities = open_model(model).predict(test.images)[1]
    drawn = test.images, probabilities, test.labels
    plots.predictions(*drawn, names, str(model), FOLDER / "predictions.png", columns=4)


def write_page():
    """Writes the page that shows the gates; returns its path, or why it was not made."""
    try:
        to_page.main(["--run", str(FOLDER)])
    except cli.InputError as missing:
        return f"not made: {missing}"
    return f"{FOLDER / 'page' / 'index.html'}: open it in a browser"


def on_disk():
    """Whether CIFAR-100 can be read without a download."""
    with cli.needing("train"):
        from training.data.cifar import ARCHIVES

    folder = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    archive = ARCHIVES["cifar100"]
    return any((folder / name).exists() for name in ("cifar100", archive.file, archive.folder))


if __name__ == "__main__":
    cli.run(main)
