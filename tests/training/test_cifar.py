"""Tiny archives and tiny sets of TFDS, whole and damaged: what is read, from where, what is not."""

import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import requests
import tensorflow as tf
import tensorflow_datasets as tfds

from training import cifar, data
from training.cli import InputError

IMAGES_OF = {"tfds": 3, "tar": 5, "unpacked": 7}  # training images, by which a source is known


@pytest.fixture(autouse=True)
def nobodys_data(monkeypatch, tmp_path_factory):
    """A home without data sets, and no network."""
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))

    def refuse(*args, **kwargs):
        raise requests.ConnectionError("a test reaches no network")

    monkeypatch.setattr(requests, "head", refuse)


def batch(name, count, seed=0):
    """Returns a batch as the archive of a set has it: rows of planes, a list of labels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    labels = rng.integers(0, cifar.ARCHIVES[name].classes, count).tolist()
    return {"data": pixels, cifar.ARCHIVES[name].labels: labels}


def members(name="cifar100", count=4):
    """Returns the members of the archive of a set, unpickled."""
    archive = cifar.ARCHIVES[name]
    batches = {
        member: batch(name, count, seed)
        for seed, member in enumerate((*archive.train, *archive.test))
    }
    return {**batches, archive.meta: {archive.names: [f"c{i}" for i in range(archive.classes)]}}


def pickled(content):
    return content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)


def write_tar(folder, name="cifar100", contents=None, extra=()):
    """Writes the archive of a set; `extra` are `TarInfo` of members without content."""
    archive = cifar.ARCHIVES[name]
    path = folder / archive.file
    with tarfile.open(path, "w:gz") as tar:
        for member, content in (contents or members(name)).items():
            info = tarfile.TarInfo(f"{archive.folder}/{member}")
            info.size = len(pickled(content))
            tar.addfile(info, io.BytesIO(pickled(content)))
        for info in extra:
            tar.addfile(info)
    return path


def write_unpacked(folder, name="cifar100", contents=None):
    unpacked = folder / cifar.ARCHIVES[name].folder
    unpacked.mkdir()
    for member, content in (contents or members(name)).items():
        (unpacked / member).write_bytes(pickled(content))
    return unpacked


def write_tfds(folder, name="cifar100", count=4, version="3.0.2"):
    """Writes a set as TFDS prepares it: `count` black images of label 1 in each split."""
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(names=[f"c{i}" for i in range(100)]),
        }
    )
    prepared = folder / name / version
    prepared.mkdir(parents=True)
    example = {"image": np.zeros((32, 32, 3), np.uint8), "label": 1}
    serialized = features.serialize_example(features.encode_example(example))
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    splits = []
    for split in ("train", "test"):
        file = prepared / f"{name}-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(file)) as writer:
            for _ in range(count):
                writer.write(serialized)
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[count],
                num_bytes=count * len(serialized),
                filename_template=tfds.core.ShardedFileTemplate(prepared, template, name),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=str(prepared), features=features, split_infos=splits, version=version
    )
    return prepared


def refusal(*args, **kwargs):
    """Returns the message of the InputError that loading ends with."""
    with pytest.raises(InputError) as caught:
        data.load(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["cifar100", "cifar10"])
@pytest.mark.parametrize("form", ["tar", "unpacked", "the folder itself"])
def test_an_archive_is_read_exactly(tmp_path, name, form):
    archive, contents = cifar.ARCHIVES[name], members(name)
    folder = tmp_path
    if form == "tar":
        write_tar(folder, name, contents)
    else:
        unpacked = write_unpacked(folder, name, contents)
        folder = unpacked if form == "the folder itself" else folder
    before = sorted(tmp_path.rglob("*"))
    dataset = data.load(name, folder)
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
    ("there", "taken"),
    [
        (("tfds", "tar", "unpacked"), "tfds"),
        (("tar", "unpacked"), "tar"),
        (("unpacked",), "unpacked"),
    ],
)
@pytest.mark.parametrize("how", ["argument", "environment", "argument before environment", "home"])
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
    dataset = data.load("cifar100", folder if how.startswith("argument") else None)
    assert len(dataset.train) == IMAGES_OF[taken]


def test_an_empty_folder_of_tfds_does_not_hide_the_archive(tmp_path):
    (tmp_path / "cifar100" / "3.0.2").mkdir(parents=True)
    write_tar(tmp_path)
    assert "tar.gz" in data.load("cifar100", tmp_path).source


def test_the_newest_version_of_tfds_is_read_without_a_word(tmp_path, capsys):
    write_tfds(tmp_path, count=2, version="3.0.9")
    write_tfds(tmp_path, count=6, version="3.0.10")
    capsys.readouterr()
    dataset = data.load("cifar100", tmp_path)
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
        dataset = data.load("cifar100")
    assert asked == ["cifar100"]
    assert f"in {os.environ['HOME']}/tensorflow_datasets" in dataset.source


def test_without_a_network_nothing_is_left_and_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    message = refusal("cifar10")
    assert "cifar10 cannot be downloaded: www.cs.toronto.edu is out of reach" in message
    assert "--data-dir" in message
    assert "--dataset synthetic" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["argument", "environment"])
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("nowhere", "nowhere is missing"),
        ("file", "file is not a folder"),
        ("empty", r"empty holds neither cifar100/ \(prepared by TFDS\), cifar-100-python.tar.gz, "),
    ],
)
def test_a_folder_without_the_set_is_refused(tmp_path, monkeypatch, how, path, expected):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    if how == "environment":
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / path))
    with pytest.raises(InputError, match=expected + ".*Give --data-dir"):
        data.load("cifar100", tmp_path / path if how == "argument" else None)
    assert len(list(tmp_path.rglob("*"))) == 2


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: os.truncate(path, path.stat().st_size - 1), "truncated record"),
        # Half of four equal records: whole ones, but too few.
        (lambda path: os.truncate(path, path.stat().st_size // 2), "contained only 2 elements"),
        (lambda path: os.truncate(path, 0), "expected to contain 4 elements but contained only 0"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: (path.parent / "dataset_info.json").write_text("{"), "cannot be used"),
        (lambda path: (path.parent / "features.json").unlink(), "cannot be used"),
    ],
)
def test_a_damaged_set_of_tfds_is_refused(tmp_path, damage, expected):
    damage(write_tfds(tmp_path) / "cifar100-train.tfrecord-00000-of-00001")
    message = refusal("cifar100", tmp_path)
    assert expected in message
    assert str(tmp_path) in message
    assert "function_node" not in message


@pytest.mark.parametrize("kept", [0, 1, 0.5, 0.999])
def test_a_truncated_archive_is_refused(tmp_path, kept):
    path = write_tar(tmp_path)
    os.truncate(path, int(kept if kept in (0, 1) else kept * path.stat().st_size))
    assert f"{path} is damaged" in refusal("cifar100", tmp_path)


@pytest.mark.parametrize("place", [0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.9999])
def test_an_archive_with_one_bit_changed_is_refused(tmp_path, place):
    # Random pixels are stored, not compressed: only the checksum at the end tells.
    path = write_tar(tmp_path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    assert f"{path} is damaged" in refusal("cifar100", tmp_path)


def test_an_archive_that_does_not_decompress_is_refused(tmp_path):
    path = write_tar(tmp_path)
    tar = gzip.decompress(path.read_bytes())
    rest = bytearray(gzip.compress(tar[4096:]))
    rest[10] |= 0b110  # after gzip's header: a type of block that there is not
    path.write_bytes(gzip.compress(tar[:4096]) + rest)
    assert "is damaged (Error -3 while decompressing" in refusal("cifar100", tmp_path)


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "cifar-100-python.tar.gz").write_text("<html>404 Not Found</html>")
    assert "is damaged (Not a gzipped file" in refusal("cifar100", tmp_path)


def info(name, **attributes):
    member = tarfile.TarInfo(name)
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    return member


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (info("../../escaped"), "'../../escaped' leads outside"),
        (info("cifar-100-python/../../escaped"), "leads outside"),
        (info("/tmp/escaped"), "'/tmp/escaped' leads outside"),
        (info("cifar-100-python/x", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is a link"),
        (info("cifar-100-python/train", type=tarfile.LNKTYPE, linkname="/etc/passwd"), "a link"),
        (info("cifar-100-python/x", type=tarfile.FIFOTYPE), "or a device"),
    ],
)
def test_a_member_that_leads_outside_is_refused(tmp_path, member, expected):
    write_tar(tmp_path, extra=[member])
    before = sorted(tmp_path.parent.rglob("*"))
    assert expected in refusal("cifar100", tmp_path)
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_a_member_beyond_all_size_is_refused(tmp_path, monkeypatch):
    write_tar(tmp_path)
    monkeypatch.setattr(cifar, "LARGEST_MEMBER", 10_000)
    message = refusal("cifar100", tmp_path)
    assert "member 'cifar-100-python/train' has" in message
    assert "bytes; expected 10,000 at most" in message


@pytest.mark.parametrize("form", ["tar", "unpacked"])
@pytest.mark.parametrize("missing", ["train", "test", "meta"])
def test_an_archive_that_lacks_a_member_says_which(tmp_path, form, missing):
    contents = members()
    del contents[missing]
    {"tar": write_tar, "unpacked": write_unpacked}[form](tmp_path, contents=contents)
    assert f"cifar-100-python/{missing}" in refusal("cifar100", tmp_path)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["tar", "unpacked"])
@pytest.mark.parametrize("member", ["train", "meta"])
def test_a_malicious_pickle_is_refused_by_name_and_does_nothing(tmp_path, form, member):
    contents = {**members(), member: {"data": Malicious(tmp_path / "harm")}}
    {"tar": write_tar, "unpacked": write_unpacked}[form](tmp_path, contents=contents)
    assert f"its {member} is refused or damaged" in refusal("cifar100", tmp_path)
    assert "mkdir" in refusal("cifar100", tmp_path)
    assert not (tmp_path / "harm").exists()


def changed(**changes):
    return {**batch("cifar100", 4), **changes}


@pytest.mark.parametrize(
    ("member", "content", "expected"),
    [
        ("train", b"no pickle", "its train is refused or damaged"),
        ("train", pickled(batch("cifar100", 4))[:-9000], "its train is refused or damaged"),
        ("train", [1, 2], "is not cifar100: TypeError"),
        ("train", np.arange(3), "is not cifar100: IndexError"),
        ("train", {"data": np.zeros((4, 3072), np.uint8)}, "KeyError, 'fine_labels'"),
        ("train", changed(data=np.zeros((4, 3071), np.uint8)), "is not cifar100: ValueError"),
        ("train", changed(data=np.zeros((4, 3072))), "images float64 (4, 32, 32, 3)"),
        ("train", changed(data=np.zeros((3, 3072), np.uint8)), "labels int64 (4,) for images uint"),
        ("train", changed(fine_labels=[0, 1, 2, 0.5]), "labels float64"),
        ("train", changed(fine_labels=[0, 1, 2, 2**70]), "labels object"),
        ("train", changed(fine_labels=[0, 1, 2, 100]), "labels 0–100 of 100 classes"),
        ("test", changed(fine_labels=[0, 1, 2, -1]), "labels -1–2 of 100 classes"),
        ("test", changed(data=np.zeros((0, 3072), np.uint8), fine_labels=[]), "(0, 32, 32, 3)"),
        ("meta", {"fine_label_names": ["c0"]}, "it names 1 classes; expected the names of 100"),
        ("meta", {"fine_label_names": list(range(100))}, "expected the names of 100, as text"),
        ("meta", {"fine_label_names": 100}, "is not cifar100: TypeError"),
    ],
)
def test_content_that_is_not_the_set_is_refused(tmp_path, member, content, expected):
    write_tar(tmp_path, contents={**members(), member: content})
    message = refusal("cifar100", tmp_path)
    assert expected in message
    assert str(tmp_path) in message
