"""Checkpoint files are read by their content, whatever they are called."""

import pickle
import struct
import sys

import numpy as np
import pytest

import keras_nam
from keras_nam.weights import files, read_checkpoint
from keras_nam.weights.formats import bfloat16
from tests.support.checkpoint_files import CHECKPOINTS, SHAPES
from tests.support.golden_weights import weights_for


def assert_loaded(layer):
    expected = weights_for(SHAPES)
    for key, variable in zip(SHAPES, layer.weights, strict=True):
        np.testing.assert_array_equal(variable, expected[key], err_msg=key)


def test_a_data_parallel_checkpoint_with_its_optimizer(layer):
    """Wrapped in `state_dict`, prefixed with `module.`, beside an SGD's momentum."""
    pytest.importorskip("torch", reason="reads PyTorch's file, and PyTorch is not installed")
    report = keras_nam.load_weights(layer, CHECKPOINTS / "channel_att_16_dataparallel.pth")
    assert report.fits
    assert report.weights == "state_dict.module"
    assert_loaded(layer)


@pytest.mark.parametrize("name", ["a.pth", "a.pth.tar", "a.pkl", "a.ckpt", "a", "a.npz"])
@pytest.mark.parametrize("file", ["channel_att_16_dataparallel.pth", "legacy.pth"])
def test_without_pytorch_its_file_says_what_to_install(tmp_path, without_torch, file, name):
    (tmp_path / name).write_bytes((CHECKPOINTS / file).read_bytes())
    with pytest.raises(ImportError, match=r"pip install torch.*\.safetensors"):
        read_checkpoint(tmp_path / name)


def test_safetensors_says_which_package_it_needs(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    path = tmp_path / "some.safetensors"
    path.write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(ImportError, match=r"pip install 'keras-nam\[convert\]'"):
        read_checkpoint(path)


def write_safetensors(path, dtype, shape, data):
    header = b'{"weight":{"dtype":"%s","shape":%s,"data_offsets":[0,%d]}}'
    header %= (dtype.encode(), str(shape).encode(), len(data))
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "I32", "U8", "BOOL"])
def test_safetensors_types(tmp_path, dtype):
    pytest.importorskip("safetensors")
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    values = values.astype(bool) if dtype == "BOOL" else values
    data = {
        "F64": values.astype("<f8"),
        "F32": values,
        "F16": values.astype("<f2"),
        "BF16": (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2"),
        "I32": values.astype("<i4"),
        "U8": values.astype("u1"),
        "BOOL": values,
    }[dtype].tobytes()
    path = write_safetensors(tmp_path / "typed.safetensors", dtype, [2, 3], data)
    np.testing.assert_array_equal(read_checkpoint(path)["weight"], values)


def test_a_type_of_safetensors_that_numpy_lacks_is_named_by_its_key(tmp_path, layer):
    pytest.importorskip("safetensors")
    path = write_safetensors(tmp_path / "a.safetensors", "F8_E4M3", [4], bytes(4))
    with pytest.raises(ValueError, match=r"No dictionary of arrays.*weight"):
        keras_nam.load_weights(layer, path)


def test_npz_and_paddle_files_round_trip(tmp_path, layer):
    keras_nam.load_weights(layer, weights_for(SHAPES))
    arrays = keras_nam.to_torch_state_dict(layer)
    fortran = {"matrix": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    np.savez(tmp_path / "fortran.npz", **fortran)
    np.testing.assert_array_equal(
        read_checkpoint(tmp_path / "fortran.npz")["matrix"], fortran["matrix"]
    )
    files.write_paddle(keras_nam.to_paddle_state_dict(layer), tmp_path / "b.pdparams")
    pytest.importorskip("safetensors")
    files.write_safetensors(arrays, tmp_path / "c.safetensors")
    for name in ("a.npz", "b.pdparams", "c.safetensors"):
        renamed = (tmp_path / name).rename(tmp_path / name.replace(".", "_"))
        for variable in layer.weights:
            variable.assign(variable * 0)
        assert keras_nam.load_weights(layer, renamed).fits
        assert_loaded(layer)


@pytest.mark.parametrize("wrapped", [False, True])
def test_paddle_bfloat16_is_uint16_in_the_file(tmp_path, layer, wrapped):
    values = np.linspace(-1, 1, 16, dtype=np.float32)
    bits = {key: (values.view(np.uint32) >> 16).astype(np.uint16) for key in SHAPES}
    renamed = {
        key.replace("running_mean", "_mean").replace("running_var", "_variance"): value
        for key, value in bits.items()
    }
    path = tmp_path / "half.pdparams"
    path.write_bytes(pickle.dumps({"model": renamed} if wrapped else renamed))
    keras_nam.load_weights(layer, path)
    np.testing.assert_allclose(layer.gamma, values, atol=2**-7)


def test_bfloat16_is_the_upper_half_of_float32():
    values = np.array([1.0, -2.5, 3.140625, 1e38, np.inf, 0.0], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    np.testing.assert_allclose(bfloat16(bits), values, rtol=2**-7)
    assert np.isnan(bfloat16(np.array([0x7FC0], np.uint16)))
