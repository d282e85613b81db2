"""Folders of pictures: what is found, how it is split, and what is refused."""

import os
import shutil

import pytest
from PIL import Image

from tests.support import picture_folder
from training import jobs
from training.cli import InputError
from training.data import datasets, folder
from training.runs import files


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pictures(tmp_path):
    return picture_folder.make(tmp_path / "pictures", count=12)


def names(found, part):
    return {picture.name for picture in found.parts[part]}


def test_classes_nested_folders_and_hidden_files(pictures):
    with pytest.raises(InputError, match="no test part: give --test-split"):
        folder.open_folder(pictures, test_split=0)
    found = folder.open_folder(pictures, test_split=0.25)
    assert found.class_names == sorted(["red", "blue", "Größe", "dark grey", "light grey"])
    assert [len(found.parts[part]) for part in ("train", "validation", "test")] == [45, 0, 15]
    everything = names(found, "train") | names(found, "test")
    assert "Größe/more/004.gif" in everything
    assert not any("hidden" in name for name in everything)
    by_class = [picture.label for picture in found.parts["test"]]
    assert [by_class.count(label) for label in range(5)] == [3] * 5
    assert not names(found, "train") & names(found, "test")


def test_the_first_pictures_are_of_several_classes(pictures):
    found = folder.open_folder(pictures)
    assert all(len({p.label for p in part[:5]}) > 2 for part in found.parts.values() if part)


def test_orientation_and_jpegs_for_tensorflow(pictures):
    found = folder.open_folder(pictures)
    entries = {p.name: p.entry for part in found.parts.values() for p in part}
    turned = entries["red/011.jpg"]
    with Image.open(pictures / "red/011.jpg") as stored:
        assert (turned.width, turned.height) == (stored.height, stored.width)
    assert not turned.is_jpeg
    assert not entries["red/more/008.jpg"].is_jpeg
    assert entries["red/more/000.jpg"].is_jpeg
    assert entries["red/007.jpg"].is_jpeg


def test_a_picture_more_leaves_the_others_where_they_are(pictures):
    before = folder.open_folder(pictures, test_split=0.25, validation_split=0.2)
    picture_folder.draw(picture_folder.np.random.default_rng(9), 0, 50, 50).save(
        pictures / "red/new.png"
    )
    after = folder.open_folder(pictures, test_split=0.25, validation_split=0.2)
    moved = sum(
        len(names(before, part) - names(after, part)) for part in ("train", "validation", "test")
    )
    assert moved <= 2  # one a split
    assert len(after.listing()) == len(before.listing()) + 1


def test_parts_by_folders_of_any_usual_name(pictures, tmp_path):
    root = tmp_path / "parts"
    for part in ("training", "valid", "test"):
        shutil.copytree(pictures, root / part)
    found = folder.open_folder(root, test_split=0.5)
    assert [len(found.parts[part]) for part in ("train", "validation", "test")] == [60, 60, 60]
    # Every picture of the copies is in the training part too.
    assert len(found.warnings) == 2
    assert "60 pictures of the test part" in found.warnings[1]
    with pytest.raises(InputError, match=r"--validation-split 0\.5.*has a validation part"):
        folder.open_folder(root, validation_split=0.5)


def test_the_index_is_reused_and_notices_changes(pictures):
    first = folder.open_folder(pictures).listing()
    changed, unchanged = pictures / "red/001.png", pictures / "red/002.JPG"
    Image.new("RGB", (60, 60)).save(changed)
    status = unchanged.stat()
    unchanged.write_bytes(bytes(status.st_size))  # unreadable, but of the same size and time
    os.utime(unchanged, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = folder.open_folder(pictures).listing()
    assert {name for _, name, _ in set(first) ^ set(second)} == {"red/001.png"}


def test_all_unreadable_pictures_are_listed_or_left_out(pictures):
    (pictures / "red/bad1.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    (pictures / "blue/bad2.PNG").write_bytes(b"")
    with pytest.raises(InputError, match="bad1") as refused:
        folder.open_folder(pictures)
    assert "bad1.jpg" in str(refused.value)
    assert "bad2.PNG" in str(refused.value)
    found = folder.open_folder(pictures, skip_unreadable=True)
    assert "2 unreadable" in found.warnings[0]
    assert len(found.listing()) == 60


def _remove(*paths):
    def change(root):
        for path in paths:
            shutil.rmtree(root / path)

    return change


def _empty(root):
    shutil.rmtree(root / "red")
    (root / "red").mkdir()


def _parts(root):
    for part in ("train", "test"):
        shutil.copytree(root, root.parent / "parts" / part)
    shutil.rmtree(root.parent / "parts/test/red")
    shutil.rmtree(root)
    (root.parent / "parts").rename(root)


def _one_picture(root):
    _empty(root)
    Image.new("RGB", (40, 40)).save(root / "red/only.png")


def _link_to_nothing(root):
    (root / "red/link.png").symlink_to("nowhere.png")


def _not_utf8(root):
    os.rename(root / "red/001.png", os.fsencode(root / "red") + b"/caf\xe9.png")


@pytest.mark.parametrize(
    ("change", "token"),
    [
        (_remove("."), "does not exist"),
        (_remove("red", "blue", "Größe", "dark grey", "light grey"), "no class folders"),
        (_remove("red", "blue", "Größe", "dark grey"), "one class, light grey"),
        (_empty, "red"),
        (_parts, "red is in one of them only"),
        (_one_picture, "red/only.png"),
        (_link_to_nothing, r"red/link\.png: No such file"),
        (_not_utf8, r"red/caf\\udce9\.png': the name is not UTF-8"),
    ],
)
def test_refused(pictures, change, token):
    change(pictures)
    with pytest.raises(InputError, match=token):
        folder.open_folder(pictures)


def test_a_validation_part_that_a_run_did_not_have_is_left_out(pictures, tmp_path):
    root, run = tmp_path / "parts", tmp_path / "run"
    for part in ("train", "test"):
        shutil.copytree(pictures, root / part)
    job = jobs.Job(dataset=str(root), image_size=(32,))
    before = datasets.load(**job.data)
    run.mkdir()
    files.write_listing(run, before.listing)
    shutil.copytree(pictures, root / "val")
    assert datasets.load(**job.data).validation is not None
    found = datasets.of_run(run, job, {}, len(before.class_names))
    assert found.validation is None
    assert len(found.test) == len(before.test)
