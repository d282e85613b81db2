"""What is read from tiny archives and tiny sets of TFDS, and which of them is taken."""

import os

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

from tests.support.tiny_cifar import members, refusal, write_tar, write_tfds, write_unpacked
from training.cli import InputError
from training.data import cifar, datasets

IMAGES_OF = {"tfds": 3, "tar": 5, "unpacked": 7}  # training images, by which a source is known


@pytest.fixture(autouse=True)
def nobodys_data(monkeypatch, tmp_path_factory):
    """A home without data sets, and no network."""
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))

    def refuse(*args, **kwargs):
        raise requests.ConnectionError("a test reaches no network")

    monkeypatch.setattr(requests, "head", refuse)


@pytest.mark.parametrize(
    ("name", "form"),
    [("cifar100", "tar"), ("cifar10", "unpacked"), ("cifar100", "the folder itself")],
)
def test_an_archive_is_read_exactly(tmp_path, name, form):
    archive, contents = cifar.ARCHIVES[name], members(name)
    folder = tmp_path
    if form == "tar":
        write_tar(folder, name, contents)
    else:
        unpacked = write_unpacked(folder, name, contents)
        folder = unpacked if form == "the folder itself" else folder
    before = sorted(tmp_path.rglob("*"))
    dataset = datasets.load(name, folder)
    for split, files in ((dataset.train, archive.train), (dataset.test, archive.test)):
        pixels = np.concatenate([contents[file]["data"] for file in files])
        red, green, blue = (pixels[:, i * 1024 : (i + 1) * 1024] for i in range(3))
        expected = np.stack([red, green, blue], -1).reshape(-1, 32, 32, 3)
        np.testing.assert_array_equal(split.images, expected)
        assert split.images.dtype == np.uint8
        labels = [label for file in files for label in contents[file][archive.labels]]
        assert split.labels.tolist() == labels
        assert split.labels.dtype == np.int64
    assert dataset.class_names == contents[archive.meta][archive.names]
    assert str(folder) in dataset.source
    assert sorted(tmp_path.rglob("*")) == before  # nothing is unpacked


@pytest.mark.parametrize(
    ("there", "taken", "how"),
    [
        (("tfds", "tar", "unpacked"), "tfds", "argument"),
        (("tfds", "unpacked"), "tfds", "home"),
        (("tar", "unpacked"), "tar", "argument before environment"),
        (("unpacked",), "unpacked", "environment"),
    ],
)
def test_sources_have_an_order(tmp_path, monkeypatch, there, taken, how):
    folder = tmp_path / "tensorflow_datasets"
    folder.mkdir()
    write = {
        "tfds": lambda: write_tfds(folder, count=IMAGES_OF["tfds"]),
        "tar": lambda: write_tar(folder, contents=members(count=IMAGES_OF["tar"])),
        "unpacked": lambda: write_unpacked(folder, contents=members(count=IMAGES_OF["unpacked"])),
    }
    for source in there:
        write[source]()
    if how == "argument before environment":
        other = tmp_path / "other"
        other.mkdir()
        write_tar(other, contents=members(count=9))
        monkeypatch.setenv("TFDS_DATA_DIR", str(other))
    if how == "environment":
        monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    if how == "home":
        monkeypatch.setenv("HOME", str(tmp_path))
    dataset = datasets.load("cifar100", folder if how.startswith("argument") else None)
    assert len(dataset.train) == IMAGES_OF[taken]


def test_an_empty_folder_of_tfds_does_not_hide_the_archive(tmp_path):
    (tmp_path / "cifar100" / "3.0.2").mkdir(parents=True)
    write_tar(tmp_path, contents=members(count=5))
    assert len(datasets.load("cifar100", tmp_path).train) == 5


def test_the_newest_version_of_tfds_is_read_quietly(tmp_path, capsys):
    write_tfds(tmp_path, count=2, version="3.0.9")
    write_tfds(tmp_path, count=6, version="3.0.10")
    capsys.readouterr()
    dataset = datasets.load("cifar100", tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (6, 6)
    assert dataset.source == f"TFDS cifar100 3.0.10 in {tmp_path}"
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.labels.tolist() == [1] * 6
    assert capsys.readouterr() == ("", "")


def test_without_data_tfds_downloads_it_home(monkeypatch):
    asked = []

    class Builder:
        def __init__(self, name, data_dir):
            self.name, self.folder = name, data_dir

        def download_and_prepare(self):
            asked.append(self.name)
            write_tfds(self.folder, self.name)

    monkeypatch.setattr(requests, "head", lambda *args, **kwargs: None)
    monkeypatch.setattr(tfds, "builder", Builder)
    for _ in range(2):  # the second time it is there
        dataset = datasets.load("cifar100")
    assert asked == ["cifar100"]
    assert f"in {os.environ['HOME']}/tensorflow_datasets" in dataset.source


def test_without_a_network_nothing_is_left_and_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    message = refusal("cifar10")
    assert "No usable cifar10" in message
    assert "www.cs.toronto.edu cannot be reached" in message
    assert "--data-dir" in message
    assert "--dataset synthetic" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("how", "path", "expected"),
    [
        ("argument", "nowhere", "nowhere: this is not a folder"),
        ("argument", "file", "file: this is not a folder"),
        ("environment", "empty", "empty: there is none"),
    ],
)
def test_a_folder_without_the_set_is_refused(tmp_path, monkeypatch, how, path, expected):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    if how == "environment":
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / path))
    with pytest.raises(InputError, match=expected + ".*Give --data-dir"):
        datasets.load("cifar100", tmp_path / path if how == "argument" else None)
    assert len(list(tmp_path.rglob("*"))) == 2
