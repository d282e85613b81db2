"""Checkpoint files that are damaged, malicious or something else: one line, and nothing run."""

import io
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest
from checkpoint_files import CHECKPOINTS, SHAPES, RunsOnLoad, torch_file, write_zip
from golden_weights import weights_for

import keras_nam
from keras_nam.weights import read_checkpoint, torch_zip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (1 << 40,)}, "1099511627776.*holds 4 numbers"),
        ({"shape": (1 << 20, 1 << 20), "strides": (1 << 20, 1)}, "holds 4 numbers"),
        ({"count": 1 << 40}, "declares 1099511627776 numbers and holds 4"),
        ({"shape": (4,), "strides": (-1,)}, "strides"),
        ({"shape": (2, 2)}, "strides"),
        ({"name": "_rebuild_sparse_tensor"}, "imports torch._utils._rebuild_sparse_tensor"),
    ],
    ids=["huge", "huge-strided", "huge-storage", "negative", "ranks", "sparse"],
)
def test_a_tensor_that_its_storage_does_not_hold_is_refused(tmp_path, options, message):
    path = torch_file(tmp_path / "bad.pth", **options)
    with pytest.raises(ValueError, match=message):
        torch_zip.read(path)
    with pytest.raises(ValueError, match=r"bad\.pth is not a whole \.pth checkpoint"):
        read_checkpoint(path)


def test_a_true_tensor_of_the_same_make_is_read(tmp_path):
    """The control of the refusals above."""
    storage = np.arange(4, dtype="<f4").tobytes()
    path = torch_file(tmp_path / "good.pth", shape=(2, 2), strides=(1, 2), storage=storage)
    np.testing.assert_array_equal(torch_zip.read(path)["weight"], [[0, 2], [1, 3]])


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".npz"])
def test_a_member_larger_than_the_file_is_refused_before_it_is_read(tmp_path, suffix):
    path = torch_file(tmp_path / f"bad{suffix}")
    content = path.read_bytes()
    # The sizes of the first member, in the archive's directory.
    at = content.index(b"PK\x01\x02") + 20
    path.write_bytes(content[:at] + struct.pack("<II", 3 << 30, 3 << 30) + content[at + 8 :])
    with pytest.raises(ValueError, match=r"data\.pkl declares 3221225472 bytes, in a file of"):
        read_checkpoint(path)


def malicious_zip(path, victim):
    return write_zip(path, {"data.pkl": pickle.dumps(RunsOnLoad(victim), 2), "version": b"3\n"})


def malicious_pickle(path, victim):
    path.write_bytes(pickle.dumps({"bn2.weight": RunsOnLoad(victim)}))
    return path


@pytest.mark.parametrize(
    ("name", "write"), [("bad.pth", malicious_zip), ("bad.pdparams", malicious_pickle)]
)
@pytest.mark.parametrize("torch", ["as installed", "without"])
def test_a_call_of_the_shell_is_refused_by_name(tmp_path, layer, name, write, torch, monkeypatch):
    if torch == "without":
        monkeypatch.setitem(sys.modules, "torch", None)
    victim = tmp_path / "touched"
    with pytest.raises(ValueError, match=r"it imports (posix|nt)\.system") as error:
        keras_nam.load_weights(layer, write(tmp_path / name, victim))
    assert "\n" not in str(error.value)
    assert not victim.exists()


@pytest.mark.parametrize("name", ["bad.pth", "bad.npz"])
def test_whatever_byte_is_damaged_the_error_is_a_value_error(tmp_path, name, without_torch):
    path = tmp_path / name
    if name == "bad.pth":
        content = (CHECKPOINTS / "channel_att_16_dataparallel.pth").read_bytes()
    else:
        np.savez_compressed(path, **weights_for(SHAPES))
        content = path.read_bytes()
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            read_checkpoint(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017 (some bytes may change unnoticed)


def test_a_dictionary_that_holds_itself_ends(tmp_path, layer):
    contents = {}
    contents["model"] = contents
    (tmp_path / "bad.pdparams").write_bytes(pickle.dumps(contents))
    with pytest.raises(ValueError, match="No array"):
        keras_nam.load_weights(layer, tmp_path / "bad.pdparams")


def test_numpy_is_not_called_with_a_shape_of_the_pickle(tmp_path):
    path = tmp_path / "bad.pdparams"
    path.write_bytes(b"\x80\x02cnumpy\nndarray\n(I1099511627776\ntR.")
    with pytest.raises(ValueError, match="not callable"):
        read_checkpoint(path)


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
    return {
        "truncated.pth": (whole[:-100], "the zip archive is truncated"),
        "damaged.pth": (whole.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"), "CRC|_v9"),
        "text.pth": (b"this is no checkpoint", "neither a zip archive nor a pickle"),
        "empty.pth": (b"", "neither a zip archive nor a pickle"),
        "two.pth": (b"PK", "the zip archive is truncated"),
        "text.pdparams": (b"this is no checkpoint", "Not a pickle of arrays"),
        "truncated.pdparams": (pickle.dumps({"a": np.zeros(99)})[:-60], "Not a pickle of arrays"),
        "list.pdparams": (pickle.dumps([1]), "holds a list"),
        "text.safetensors": (b"this is no checkpoint", "(?i)header"),
        "huge.safetensors": (struct.pack("<Q", 1 << 40) + b"{}", "(?i)header"),
        "text.npz": (b"this is no checkpoint", "not a zip file"),
        "truncated.npz": (array.getvalue()[:-30], "not a zip file"),
        "objects.npz": (objects.getvalue(), "of object"),
        "huge.npz": (
            huge.getvalue(),
            r"declares \[1099511627776\] of float32",
        ),
        "checkpoint.tar": (b"", "no suffix of a checkpoint"),
    }


@pytest.mark.parametrize("name", broken_files())
@pytest.mark.parametrize("torch", ["as installed", "without"])
def test_bad_files_are_one_clear_line(tmp_path, layer, name, torch, monkeypatch):
    if torch == "without":
        monkeypatch.setitem(sys.modules, "torch", None)
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    content, message = broken_files()[name]
    path = tmp_path / name
    path.write_bytes(content)
    before = [np.array(variable) for variable in layer.weights]
    with pytest.raises(ValueError, match=message) as error:
        keras_nam.load_weights(layer, path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    for variable, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_missing_file_and_a_folder(layer, tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(ValueError, match=r"no file|no suffix"):
            keras_nam.load_weights(layer, path)
