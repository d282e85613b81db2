"""Checkpoint files: what PyTorch wrote is read with and without it."""

import pickle
import struct
import sys

import numpy as np
import pytest
from checkpoint_files import CHECKPOINTS, SHAPES
from golden_weights import weights_for

import keras_nam
from keras_nam.weights import files, read_checkpoint, torch_zip


def test_a_data_parallel_checkpoint_with_its_optimizer(layer, without_torch):
    """Wrapped in `state_dict`, prefixed with `module.`, beside an SGD's momentum."""
    report = keras_nam.load_weights(layer, CHECKPOINTS / "channel_att_16_dataparallel.pth")
    assert report.fits
    expected = weights_for(SHAPES)
    for key, variable in zip(SHAPES, layer.weights, strict=True):
        np.testing.assert_array_equal(variable, expected[key])


def test_types_and_views_of_a_torch_file():
    tensors = torch_zip.read(CHECKPOINTS / "tensors.pth")
    values = np.arange(24, dtype=np.float32).reshape(4, 6) / 8
    expected = {
        "float16": values.astype(np.float16),
        "bfloat16": values,
        "float64": values.astype(np.float64),
        "int64": values.astype(np.int64),
        "transposed": values.T,
        "offset": values[1:, 2:],
        "expanded": np.broadcast_to(values[:1], (3, 6)),
        "scalar": values[3, 5],
        "empty": np.zeros((0, 3), np.float32),
    }
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert tensors[name].dtype == array.dtype, name
        np.testing.assert_array_equal(tensors[name], array, err_msg=name)


def test_bfloat16_is_the_upper_half_of_float32():
    values = np.array([1.0, -2.5, 3.140625, 1e38, np.inf, 0.0], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    np.testing.assert_allclose(torch_zip.bfloat16(bits), values, rtol=2**-7)
    assert np.isnan(torch_zip.bfloat16(np.array([0x7FC0], np.uint16)))


def test_a_file_from_before_zip_archives_says_who_reads_it(without_torch):
    with pytest.raises(ValueError, match=r"before PyTorch 1\.6.*install torch"):
        read_checkpoint(CHECKPOINTS / "legacy.pth")


def test_safetensors_says_which_package_it_needs(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    path = tmp_path / "some.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ImportError, match=r"pip install 'keras-nam\[convert\]'"):
        read_checkpoint(path)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_safetensors_types(tmp_path, dtype):
    safetensors = pytest.importorskip("safetensors")
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = {
        "F64": values.astype("<f8").tobytes(),
        "F32": values.tobytes(),
        "F16": values.astype("<f2").tobytes(),
        "BF16": (values.view(np.uint32) >> 16).astype("<u2").tobytes(),
    }[dtype]
    dtypes = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    tensor = {"dtype": dtypes[dtype], "shape": [2, 3], "data": data}
    path = tmp_path / "typed.safetensors"
    header = b'{"weight":{"dtype":"%s","shape":[2,3],"data_offsets":[0,%d]}}'
    header %= (dtype.encode(), len(data))
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    assert safetensors.deserialize(path.read_bytes())[0][1]["shape"] == tensor["shape"]
    np.testing.assert_array_equal(read_checkpoint(path)["weight"], values)


def test_npz_and_paddle_files_round_trip(tmp_path, layer):
    expected = weights_for(SHAPES)
    keras_nam.load_weights(layer, expected)
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
        for variable in layer.weights:
            variable.assign(variable * 0)
        assert keras_nam.load_weights(layer, tmp_path / name).fits
        for key, variable in zip(SHAPES, layer.weights, strict=True):
            np.testing.assert_array_equal(variable, expected[key], err_msg=f"{name} {key}")


def test_paddle_bfloat16_is_uint16_in_the_file(tmp_path, layer):
    values = np.linspace(-1, 1, 16, dtype=np.float32)
    bits = {key: (values.view(np.uint32) >> 16).astype(np.uint16) for key in SHAPES}
    renamed = {
        key.replace("running_mean", "_mean").replace("running_var", "_variance"): value
        for key, value in bits.items()
    }
    path = tmp_path / "half.pdparams"
    path.write_bytes(pickle.dumps(renamed))
    keras_nam.load_weights(layer, path)
    np.testing.assert_allclose(layer.gamma, values, atol=2**-7)
