"""The command: the files that it writes, its messages and exit status."""

import importlib.util
import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest

import keras_nam
from keras_nam import convert
from keras_nam.weights import files, read_checkpoint
from tests.support.networks.small_models import created_under
from tests.support.weights.checkpoint_files import CHECKPOINTS, Calls

pytestmark = pytest.mark.usefixtures("without_torch")


@pytest.fixture(scope="module")
def source(tmp_path_factory, state):
    """A `.npz` of a small network's weights by the official names."""
    path = tmp_path_factory.mktemp("source") / "r18w8_nam.npz"
    np.savez(path, **state)
    return path


def run(*arguments, arch="r18w8_nam"):
    return convert.main([*map(str, arguments), "--arch", arch])


def test_through_every_format_and_back_bit_equal(source, state, tmp_path, capsys):
    pytest.importorskip("safetensors")
    steps = ["a.keras", "b.pdparams", "c.weights.h5", "d.safetensors", "e.pdparams"]
    paths = [source, *(tmp_path / name for name in steps)]
    for before, after in itertools.pairwise(paths):
        names = "weiaicunzai" if after.suffix == ".safetensors" else "official"
        assert run(before, after, "--names", names) == 0
        printed = capsys.readouterr().out
        assert f"wrote {after}" in printed
        assert "not proved: PyTorch is not installed" in printed or before.suffix == ".keras"
    assert "conv2_x.0.residual_function.0.weight" in read_checkpoint(paths[-2])
    last = read_checkpoint(paths[-1])
    np.testing.assert_array_equal(last["fc.weight"].values, state["fc.weight"].T)
    for key in ("conv1.weight", "bn1.weight", "layer4.1.nam.Channel_Att.bn2.bias"):
        np.testing.assert_array_equal(last[key].values, state[key])
    assert {path.name for path in tmp_path.iterdir()} == set(steps)


BAD = {
    "missing": (["none.pth", "out.keras"], {}, "not an existing file"),
    "suffix": (["SOURCE", "out.onnx"], {}, "none of the suffixes"),
    "suffix-of-another": (["SOURCE", "out.pth", "--to", "paddle"], {}, ".pdparams"),
    "folder": (["SOURCE", "none/out.keras"], {}, "The folder none does not exist"),
    "same": (["SOURCE", "SOURCE", "--to", "torch"], {}, "the same file"),
    "arch": (["SOURCE", "out.keras"], {"arch": "r18w8_man"}, "Did you mean 'r18_nam'"),
    "wrong-arch": (["SOURCE", "out.keras"], {"arch": "r34w8_cbam"}, "does not fit 'r34w8_cbam'"),
    "classes": (["SOURCE", "out.keras", "--num-classes", "10"], {}, "the model has [10, 64]"),
    "format": (["SOURCE", "out.keras", "--from", "weiaicunzai"], {}, "missing (conv1.0.weight"),
    "torch": (["SOURCE", "out.pth"], {}, "pip install torch"),
    "malicious": (["evil.pdparams", "out.keras"], {}, "imports builtins.eval"),
    "keras": (["other.weights.h5", "out.pdparams"], {}, "does not fit 'r18w8_nam'"),
    "keras-format": (["other.weights.h5", "out.pdparams", "--from", "official"], {}, "'official'"),
    "weights": (["SOURCE", "out.keras", "--weights", "ema"], {}, "no weights 'ema'"),
    "without-torch": (["some.pth.tar", "out.keras"], {}, "pip install torch"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_status_2(name, source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pdparams").write_bytes(pickle.dumps({"a": Calls(eval, "1")}))
    (tmp_path / "some.pth.tar").write_bytes((CHECKPOINTS / "legacy.pth").read_bytes())
    if name.startswith("keras"):
        keras_nam.create_model("r18w16").save_weights(tmp_path / "other.weights.h5")
    arguments, options, message = BAD[name]
    present = set(tmp_path.iterdir())
    assert run(*(source if a == "SOURCE" else a for a in arguments), **options) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert printed.count("\n") == 1
    assert len(printed) < 800
    assert set(tmp_path.iterdir()) == present


@pytest.mark.parametrize("chosen", ["state_dict", "state_dict_ema"])
def test_averaged_weights_beside_raw_ones(state, tmp_path, capsys, chosen):
    """The output names the weights that were taken; --weights chooses."""
    averaged = {f"module.{key}": array + 1 for key, array in state.items()}
    content = {"state_dict": state, "state_dict_ema": averaged, "epoch": 3}
    (tmp_path / "both.pkl").write_bytes(pickle.dumps(content))
    options = [] if chosen == "state_dict" else ["--weights", chosen]
    assert run(tmp_path / "both.pkl", tmp_path / "out.pdparams", *options) == 0
    printed = capsys.readouterr()
    assert f"weights of '{chosen}" in printed.out
    assert "epoch" in printed.out
    assert ("state_dict_ema" in printed.err) == (chosen == "state_dict")
    read = read_checkpoint(tmp_path / "out.pdparams")["fc.bias"].values
    np.testing.assert_array_equal(read, state["fc.bias"] + (chosen == "state_dict_ema"))


def test_no_strict_converts_what_fits_and_reports_the_rest(state, tmp_path, capsys):
    np.savez(tmp_path / "a.npz", **state, extra=np.zeros(3), total_ops=np.zeros(1))
    arguments = [tmp_path / "a.npz", tmp_path / "out.pdparams", "--num-classes", "10"]
    assert run(*arguments, "--no-strict") == 0
    printed = capsys.readouterr().out
    assert "132 weights" in printed
    assert "1 unexpected (extra)" in printed
    assert "not used: total_ops" in printed
    assert "fc.weight (the model has [10, 64]" in printed
    assert read_checkpoint(tmp_path / "out.pdparams")["fc.bias"].values.shape == (10,)


def test_nan_weights_are_warned_of(state, tmp_path, capsys):
    np.savez(tmp_path / "nan.npz", **(state | {"fc.bias": np.full(100, np.nan, "float32")}))
    assert run(tmp_path / "nan.npz", tmp_path / "out.keras") == 0
    assert "warning: The checkpoint holds NaN" in capsys.readouterr().err


def test_a_failed_write_leaves_no_file(source, tmp_path, monkeypatch, capsys):
    def full(arrays, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_paddle", full)
    (tmp_path / "out.pdparams").write_bytes(b"before")
    assert run(source, tmp_path / "out.pdparams") == 2
    assert "No space left" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out.pdparams"]
    assert (tmp_path / "out.pdparams").read_bytes() == b"before"


def test_where_images_are_channels_first(source, tmp_path):
    with created_under(data_format="channels_first"):
        assert run(source, tmp_path / "out.pdparams") == 0
    assert "fc.bias" in read_checkpoint(tmp_path / "out.pdparams")


def test_as_a_module(tmp_path, monkeypatch):
    """`python -m`: the exit status reaches the shell."""
    if importlib.util.find_spec("jax"):  # which the fastest backend imports in Keras 3.10
        monkeypatch.setenv("KERAS_BACKEND", "numpy")
    command = [sys.executable, "-m", "keras_nam.convert", tmp_path / "none.pth", "a.keras"]
    done = subprocess.run([*command, "--arch", "r18"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "not an existing file" in done.stderr
