"""Checkpoint files that are damaged, malicious or something else: one line, and nothing run."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

import keras_nam
from keras_nam.weights import read_checkpoint
from tests.support.checkpoint_files import CHECKPOINTS, SHAPES, RunsOnLoad, write_zip
from tests.support.golden_weights import weights_for

NEEDS_TORCH = "PyTorch reads this file, and is not installed"


def malicious_zip(path, victim):
    return write_zip(path, {"data.pkl": pickle.dumps(RunsOnLoad(victim), 2), "version": b"3\n"})


def malicious_pickle(path, victim):
    path.write_bytes(pickle.dumps({"bn2.weight": RunsOnLoad(victim)}))
    return path


@pytest.mark.parametrize(
    ("name", "write"), [("bad.pth", malicious_zip), ("bad.pdparams", malicious_pickle)]
)
def test_a_call_of_the_shell_is_refused_by_name(tmp_path, layer, name, write):
    if write is malicious_zip:
        pytest.importorskip("torch", reason=NEEDS_TORCH)
    victim = tmp_path / "touched"
    with pytest.raises(ValueError, match=r"imports (posix|nt)\.system") as error:
        keras_nam.load_weights(layer, write(tmp_path / name, victim))
    assert "\n" not in str(error.value)
    assert not victim.exists()


@pytest.mark.parametrize("name", ["bad.npz", "bad.pth", "bad.weights.h5", "bad.pdparams"])
def test_whatever_byte_is_damaged_the_error_is_a_value_error(tmp_path, layer, name):
    path = tmp_path / name
    step = 7
    if name == "bad.pth":
        pytest.importorskip("torch", reason=NEEDS_TORCH)
        content = (CHECKPOINTS / "channel_att_16_dataparallel.pth").read_bytes()
    elif name == "bad.weights.h5":
        import keras

        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="logits")])
        model.save_weights(path)
        content, step = path.read_bytes(), 29
        layer = model
    else:
        arrays = weights_for(SHAPES)
        np.savez_compressed(path, **arrays)
        content = path.read_bytes() if name == "bad.npz" else pickle.dumps(arrays)
    for at in range(0, len(content), step):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            keras_nam.load_weights(layer, path)
        except ValueError as error:
            assert len(str(error)) < 1000  # noqa: PT017 (some bytes may change unnoticed)


def test_a_dictionary_that_holds_itself_ends(tmp_path, layer):
    contents = {}
    contents["model"] = contents
    (tmp_path / "bad.pdparams").write_bytes(pickle.dumps(contents))
    with pytest.raises(ValueError, match="No dictionary of arrays"):
        keras_nam.load_weights(layer, tmp_path / "bad.pdparams")


def broken_files():
    whole = (CHECKPOINTS / "channel_att_16_dataparallel.pth").read_bytes()
    array = io.BytesIO()
    np.savez(array, weight=np.zeros(4, np.float32))
    objects = io.BytesIO()
    np.savez(objects, weight=np.array([{}], dtype=object))
    header = io.BytesIO()
    declared = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    np.lib.format.write_array_header_1_0(header, declared)
    huge = io.BytesIO()
    with zipfile.ZipFile(huge, "w") as archive:
        archive.writestr("weight.npy", header.getvalue() + bytes(16))
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return {
        "truncated.pth": (whole[:-100], "truncated"),
        "text.pth": (b"this is no checkpoint", "starts with"),
        "empty.pth": (b"", "starts with"),
        "two.pth": (b"PK", "truncated"),
        "other.pth": (other.getvalue(), "readme.txt"),
        "text.pdparams": (b"this is no checkpoint", "starts with"),
        "truncated.pdparams": (pickle.dumps({"a": np.zeros(99)})[:-60], "Not a pickle of arrays"),
        "list.pdparams": (pickle.dumps([1]), "No dictionary of arrays.*list"),
        "text.safetensors": (b"this is no checkpoint", "starts with"),
        "huge.safetensors": (struct.pack("<Q", 1 << 40) + b"{}", "(?i)header"),
        "truncated.npz": (array.getvalue()[:-30], "truncated"),
        "objects.npz": (objects.getvalue(), "allow_pickle"),
        "huge.npz": (huge.getvalue(), "allocate|EOF"),
        "text.h5": (b"\x89HDF\r\n\x1a\n and more", "read"),
        "truncated.tar": (b"", "starts with"),
    }


@pytest.mark.parametrize("name", broken_files())
def test_bad_files_are_one_clear_line(tmp_path, layer, name):
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    content, message = broken_files()[name]
    path = tmp_path / name
    path.write_bytes(content)
    before = [np.array(variable) for variable in layer.weights]
    with pytest.raises(ValueError, match=message) as error:
        keras_nam.load_weights(layer, path)
    assert name in str(error.value) or "No dictionary of arrays" in message
    assert "\n" not in str(error.value)
    for variable, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_damaged_pickle_inside_pytorchs_archive_is_one_line(tmp_path, layer):
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    content = (CHECKPOINTS / "channel_att_16_dataparallel.pth").read_bytes()
    path = tmp_path / "damaged.pth"
    path.write_bytes(content.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"))
    with pytest.raises(ValueError, match=r"damaged\.pth") as error:
        keras_nam.load_weights(layer, path)
    assert "\n" not in str(error.value)


def test_a_member_larger_than_pytorchs_file_is_refused(tmp_path):
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    path = tmp_path / "bad.pth"
    content = (CHECKPOINTS / "channel_att_16_dataparallel.pth").read_bytes()
    # The sizes of the first member, in the archive's directory.
    at = content.index(b"PK\x01\x02") + 20
    path.write_bytes(content[:at] + struct.pack("<II", 3 << 30, 3 << 30) + content[at + 8 :])
    with pytest.raises(ValueError, match=r"bad\.pth"):
        read_checkpoint(path)


def test_a_missing_file_and_a_folder(layer, tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(ValueError, match="no file"):
            keras_nam.load_weights(layer, path)
