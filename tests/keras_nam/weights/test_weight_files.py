"""Checkpoint files: read by content, whatever the suffix; bad ones are refused in one line."""

import io
import os
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest

import keras_nam
from keras_nam.weights import files, read_checkpoint
from tests.support.networks.small_models import assert_equal, values_of
from tests.support.weights.checkpoint_files import CHECKPOINTS, SHAPES, Calls
from tests.support.weights.golden_weights import weights_for

NEEDS_TORCH = "PyTorch reads this file, and is not installed"
DATA_PARALLEL = CHECKPOINTS / "channel_att_16_dataparallel.pth"


def assert_loaded(layer):
    assert_equal(layer, weights_for(SHAPES).values())


def test_a_data_parallel_checkpoint_with_its_optimizer(layer):
    """Wrapped in `state_dict`, prefixed with `module.`, beside an SGD's momentum."""
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    report = keras_nam.load_weights(layer, DATA_PARALLEL)
    assert report.fits
    assert report.weights == "state_dict.module"
    assert_loaded(layer)


@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "a", "a.npz"])
@pytest.mark.parametrize("file", ["channel_att_16_dataparallel.pth", "legacy.pth"])
def test_without_pytorch_the_error_names_the_package(tmp_path, without_torch, file, name):
    (tmp_path / name).write_bytes((CHECKPOINTS / file).read_bytes())
    with pytest.raises(ImportError, match=r"pip install torch.*\.safetensors"):
        read_checkpoint(tmp_path / name)


def safetensors_of(dtype, data, shape=b"[4]"):
    header = b'{"weight":{"dtype":"%s","shape":%s,"data_offsets":[0,%d]}}'
    header %= (dtype, shape, len(data))
    return struct.pack("<Q", len(header)) + header + data


def test_without_safetensors_the_error_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (tmp_path / "a.safetensors").write_bytes(safetensors_of(b"U8", bytes(4)))
    with pytest.raises(ImportError, match=r"pip install 'keras-nam\[convert\]'"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_safetensors_types(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "typed.safetensors"
    arrays = {kind: np.arange(4).astype(kind) for kind in ("f8", "f4", "f2", "i4", "u1", "?")}
    files.write_safetensors(arrays, path)
    for kind, read in read_checkpoint(path).items():
        np.testing.assert_array_equal(read, arrays[kind])
        assert read.dtype == arrays[kind].dtype
    values = arrays["f4"].reshape(2, 2)
    halves = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    path.write_bytes(safetensors_of(b"BF16", halves, b"[2,2]"))
    np.testing.assert_array_equal(read_checkpoint(path)["weight"], values)


def test_npz_paddle_and_safetensors_files_round_trip(tmp_path, layer):
    keras_nam.load_weights(layer, weights_for(SHAPES))
    arrays = keras_nam.to_torch_state_dict(layer)
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    files.write_paddle(keras_nam.to_paddle_state_dict(layer), tmp_path / "b.pdparams")
    pytest.importorskip("safetensors")
    files.write_safetensors(arrays, tmp_path / "c.safetensors")
    for name in ("a.npz", "b.pdparams", "c.safetensors"):
        renamed = (tmp_path / name).rename(tmp_path / name.replace(".", "_"))
        for variable in layer.weights:
            variable.assign(variable * 0)
        assert keras_nam.load_weights(layer, renamed).fits
        assert_loaded(layer)


def test_paddle_bfloat16_is_uint16_in_the_file(tmp_path, layer):
    values = np.linspace(-1, 1, 16, dtype=np.float32)
    names = ("weight", "bias", "_mean", "_variance")
    bits = {f"bn2.{name}": (values.view(np.uint32) >> 16).astype(np.uint16) for name in names}
    (tmp_path / "half.pdparams").write_bytes(pickle.dumps({"model": bits}))
    keras_nam.load_weights(layer, tmp_path / "half.pdparams")
    np.testing.assert_allclose(layer.gamma, values, atol=2**-7)


def zip_of(name, content):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, content)
    return archive.getvalue()


def npz_of(array):
    content = io.BytesIO()
    np.savez(content, weight=array)
    return content.getvalue()


def huge_npz():
    header = io.BytesIO()
    declared = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    np.lib.format.write_array_header_1_0(header, declared)
    return zip_of("weight.npy", header.getvalue() + bytes(16))


def member_of_three_gigabytes():
    """PyTorch's file, with other sizes of the first member in the archive's directory."""
    content = DATA_PARALLEL.read_bytes()
    at = content.index(b"PK\x01\x02") + 20
    return content[:at] + struct.pack("<II", 3 << 30, 3 << 30) + content[at + 8 :]


def dictionary_that_holds_itself():
    contents = {}
    contents["model"] = contents
    return pickle.dumps(contents)


SHELL = Calls(os.system, "touch touched")
BROKEN = {
    "shell.pdparams": (pickle.dumps({"bn2.weight": SHELL}), r"imports (posix|nt)\.system"),
    "shell.pth": (zip_of("a/data.pkl", pickle.dumps(SHELL, 2)), r"shell\.pth"),
    "truncated.pth": (DATA_PARALLEL.read_bytes()[:-100], "truncated"),
    "damaged.pth": (
        DATA_PARALLEL.read_bytes().replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"),
        r"damaged\.pth",
    ),
    "huge.pth": (member_of_three_gigabytes(), r"huge\.pth"),
    "empty.pth": (b"", "starts with"),
    "other.pth": (zip_of("readme.txt", "hello"), "readme.txt"),
    "text.pdparams": (b"this is no checkpoint", "starts with"),
    "truncated.pdparams": (pickle.dumps({"a": np.zeros(99)})[:-60], "Not a pickle of arrays"),
    "list.pdparams": (pickle.dumps([1]), "No dictionary of arrays.*list"),
    "itself.pdparams": (dictionary_that_holds_itself(), "No dictionary of arrays"),
    "huge.safetensors": (struct.pack("<Q", 1 << 40) + b"{}", "(?i)header"),
    "float8.safetensors": (
        safetensors_of(b"F8_E4M3", bytes(4)),
        "No dictionary of arrays.*weight",
    ),
    "truncated.npz": (npz_of(np.zeros(4))[:-30], "truncated"),
    "objects.npz": (npz_of(np.array([{}], dtype=object)), "allow_pickle"),
    "huge.npz": (huge_npz(), "allocate|EOF"),
    "text.h5": (b"\x89HDF\r\n\x1a\n and more", "read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_files_are_one_clear_line(tmp_path, monkeypatch, layer, name):
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    if name in ("shell.pth", "damaged.pth", "huge.pth"):
        pytest.importorskip("torch", reason=NEEDS_TORCH)
    monkeypatch.chdir(tmp_path)
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    before = values_of(layer)
    with pytest.raises(ValueError, match=message) as error:
        keras_nam.load_weights(layer, tmp_path / name)
    assert name in str(error.value) or "No dictionary of arrays" in message
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == [name]
    assert_equal(layer, before)


def test_a_missing_file_and_a_folder(layer, tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(ValueError, match="not an existing file"):
            keras_nam.load_weights(layer, path)


@pytest.mark.parametrize("name", ["bad.npz", "bad.pth", "bad.weights.h5", "bad.pdparams"])
def test_damaged_bytes_raise_a_value_error(tmp_path, layer, name):
    path = tmp_path / name
    step = 7
    if name == "bad.pth":
        pytest.importorskip("torch", reason=NEEDS_TORCH)
        path.write_bytes(DATA_PARALLEL.read_bytes())
    elif name == "bad.weights.h5":
        import keras

        layer = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="logits")])
        layer.save_weights(path)
        step = 29
    elif name == "bad.npz":
        np.savez_compressed(path, **weights_for(SHAPES))
    else:
        path.write_bytes(pickle.dumps(weights_for(SHAPES)))
    content = path.read_bytes()
    for at in range(0, len(content), step):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            keras_nam.load_weights(layer, path)
        except ValueError as error:
            assert len(str(error)) < 1000  # noqa: PT017 (some bytes may change unnoticed)
