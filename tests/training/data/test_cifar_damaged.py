"""Tiny archives and tiny sets of TFDS, damaged or malicious: one line says what is wrong."""

import gzip
import os
import tarfile

import numpy as np
import pytest

from tests.support.tiny_cifar import (
    batch,
    members,
    pickled,
    refusal,
    write_tar,
    write_tfds,
    write_unpacked,
)
from training.data import cifar


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: os.truncate(path, path.stat().st_size - 1), "truncated record"),
        # Half of four equal records: whole ones, but too few.
        (lambda path: os.truncate(path, path.stat().st_size // 2), "contained only 2 elements"),
        (lambda path: os.truncate(path, 0), "expected to contain 4 elements but contained only 0"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: (path.parent / "dataset_info.json").write_text("{"), "No usable"),
        (lambda path: (path.parent / "features.json").unlink(), "No usable"),
    ],
)
def test_a_damaged_set_of_tfds_is_refused(tmp_path, damage, expected):
    damage(write_tfds(tmp_path) / "cifar100-train.tfrecord-00000-of-00001")
    message = refusal("cifar100", tmp_path)
    assert expected in message
    assert str(tmp_path) in message
    assert "function_node" not in message


@pytest.mark.parametrize("kept", [0, 0.001, 0.5, 0.999])
def test_a_truncated_archive_is_refused(tmp_path, kept):
    path = write_tar(tmp_path)
    os.truncate(path, int(kept * path.stat().st_size))
    assert f"{path.name} is damaged" in refusal("cifar100", tmp_path)


@pytest.mark.parametrize("place", [0, 0.3, 0.7, 0.9999])
def test_an_archive_with_one_bit_changed_is_refused(tmp_path, place):
    # Random pixels are stored, not compressed: only the checksum at the end tells.
    path = write_tar(tmp_path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    assert f"{path.name} is damaged" in refusal("cifar100", tmp_path)


def test_an_archive_that_does_not_decompress_is_refused(tmp_path):
    path = write_tar(tmp_path)
    tar = gzip.decompress(path.read_bytes())
    rest = bytearray(gzip.compress(tar[4096:]))
    rest[10] |= 0b110  # after gzip's header: a type of block that there is not
    path.write_bytes(gzip.compress(tar[:4096]) + rest)
    assert "Error -3 while decompressing" in refusal("cifar100", tmp_path)
    (tmp_path / "cifar-100-python.tar.gz").write_text("<html>404 Not Found</html>")
    assert "is damaged or refused" in refusal("cifar100", tmp_path)


def info(name, **attributes):
    member = tarfile.TarInfo(name)
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    return member


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (info("../../escaped"), "outside the destination"),
        (info("cifar-100-python/../../escaped"), "outside the destination"),
        (info("cifar-100-python/x", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is a link"),
        (info("cifar-100-python/train", type=tarfile.LNKTYPE, linkname="/etc/passwd"), "a link"),
        (info("cifar-100-python/x", type=tarfile.FIFOTYPE), "special file"),
    ],
)
def test_a_member_that_leads_outside_is_refused(tmp_path, member, expected):
    write_tar(tmp_path, extra=[member])
    before = sorted(tmp_path.parent.rglob("*"))
    assert expected in refusal("cifar100", tmp_path)
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_a_link_is_not_read(tmp_path):
    contents = members()
    del contents["test"]
    link = info("cifar-100-python/test", type=tarfile.SYMTYPE, linkname="train")
    write_tar(tmp_path, contents=contents, extra=[link])
    assert "cifar-100-python/test is missing" in refusal("cifar100", tmp_path)


def test_a_file_beyond_all_size_is_refused(tmp_path, monkeypatch):
    write_tar(tmp_path)
    monkeypatch.setattr(cifar, "LARGEST_FILE", 10_000)
    assert "train in cifar-100-python.tar.gz has" in refusal("cifar100", tmp_path)


@pytest.mark.parametrize(
    ("form", "missing"), [("tar", "train"), ("unpacked", "test"), ("tar", "meta")]
)
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


@pytest.mark.parametrize(("form", "member"), [("tar", "train"), ("unpacked", "meta")])
def test_a_malicious_pickle_is_refused_by_name_and_does_nothing(tmp_path, form, member):
    contents = {**members(), member: {"data": Malicious(tmp_path / "harm")}}
    {"tar": write_tar, "unpacked": write_unpacked}[form](tmp_path, contents=contents)
    assert f"{member} is refused or damaged" in refusal("cifar100", tmp_path)
    assert "mkdir" in refusal("cifar100", tmp_path)
    assert not (tmp_path / "harm").exists()


def changed(**changes):
    return {**batch("cifar100", 4), **changes}


NESTED = [[0] * 10]
for _ in range(12):
    NESTED = [NESTED * 10]  # 10 ** 13 numbers, if one unfolds it


@pytest.mark.parametrize(
    ("member", "content", "expected"),
    [
        ("train", b"no pickle", "train is refused or damaged"),
        ("train", pickled(batch("cifar100", 4))[:-9000], "train is refused or damaged"),
        ("train", [1, 2], "cifar100"),
        ("train", np.arange(3), "cifar100"),
        ("train", {"data": np.zeros((4, 3072), np.uint8)}, "fine_labels"),
        ("train", changed(data=[[0] * 3072] * 4), "cifar100"),
        ("train", changed(data=np.zeros((4, 3071), np.uint8)), "reshape"),
        ("train", changed(data=np.zeros((4, 3072))), "float64 (4, 32, 32, 3)"),
        ("train", changed(data=np.zeros((3, 3072), np.uint8)), "(3, 32, 32, 3), 4 labels"),
        ("train", changed(fine_labels=[0, 1, 2, 0.5]), "not integers"),
        ("train", changed(fine_labels=NESTED), "not integers"),
        ("train", changed(fine_labels=[0, 1, 2, 2**70]), "labels"),
        ("train", changed(fine_labels=[0, 1, 2, 100]), "from 0 to 99"),
        ("test", changed(fine_labels=[0, 1, 2, -1]), "from 0 to 99"),
        ("test", changed(data=np.zeros((0, 3072), np.uint8), fine_labels=[]), "(0, 32, 32, 3)"),
        ("meta", {"fine_label_names": ["c0"]}, "expected 100 class names"),
        ("meta", {"fine_label_names": list(range(100))}, "expected 100 class names, as text"),
        ("meta", {"fine_label_names": 100}, "cifar100"),
    ],
)
def test_content_that_is_not_the_set_is_refused(tmp_path, member, content, expected):
    write_tar(tmp_path, contents={**members(), member: content})
    message = refusal("cifar100", tmp_path)
    assert expected in message
    assert str(tmp_path) in message
