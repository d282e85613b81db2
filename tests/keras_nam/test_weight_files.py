"""Checkpoint files: what PyTorch wrote is read with and without it, and nothing bad is run."""

import io
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from golden_weights import weights_for

import keras_nam
from keras_nam.weights import files, read_checkpoint, torch_zip

# Written by PyTorch 2.13: see the README beside them.
CHECKPOINTS = Path(__file__).parent / "checkpoints"
SHAPES = {
    "bn2.weight": [16],
    "bn2.bias": [16],
    "bn2.running_mean": [16],
    "bn2.running_var": [16],
}


@pytest.fixture
def layer():
    layer = keras_nam.NAMChannelAttention()
    layer.build((None, 4, 4, 16))
    return layer


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


class RunsOnLoad:
    """Pickles as a call of `os.system`: what a malicious file holds."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def torch_pickle(shape, strides, count, name="_rebuild_tensor_v2"):
    """Returns the `data.pkl` of `{"weight": tensor}`, with sizes that need not be true."""

    def integers(values):
        return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"

    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    storage += b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    return (
        b"\x80\x02}X\x06\x00\x00\x00weight"
        + b"ctorch._utils\n%s\n(" % name.encode()
        + (storage + b"I%d\ntQ" % count)
        + (b"I0\n" + integers(shape) + integers(strides) + b"I00\n}tRs.")
    )


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return path


def torch_file(path, shape=(4,), strides=(1,), count=4, storage=bytes(16), **kwargs):
    members = {"data.pkl": torch_pickle(shape, strides, count, **kwargs), "data/0": storage}
    return write_zip(path, {**members, "version": b"3\n"})


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
