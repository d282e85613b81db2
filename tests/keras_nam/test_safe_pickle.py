"""The unpickler reads arrays and runs nothing."""

import io
import os
import pickle

import numpy as np
import pytest

from keras_nam import safe_pickle


class RunsOnLoad:
    """Pickles as a call of `function`: what a malicious file holds."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def load(content, **kwargs):
    return safe_pickle.load(io.BytesIO(content), **kwargs)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.uint8).reshape(3, 4),
        np.asfortranarray(np.ones((2, 3), np.float32)),
        np.array([1.5, -2]).astype(">f8"),
        np.empty((0, 3), np.int64),
    ],
    ids=lambda array: f"{array.dtype.str}{list(array.shape)}",
)
def test_arrays_come_back_equal(array, protocol):
    content = {"data": array, "labels": [1, 2], "name": "batch 1", "raw": b"\x00\xff"}
    read = load(pickle.dumps(content, protocol))
    np.testing.assert_array_equal(read["data"], array)
    assert read["data"].dtype == array.dtype.newbyteorder("=")  # native: NumPy's own doing
    assert (read["labels"], read["name"], read["raw"]) == ([1, 2], "batch 1", b"\x00\xff")


@pytest.mark.parametrize(("encoding", "expected"), [("latin1", "\xff"), ("bytes", b"\xff")])
def test_text_of_python_2_is_decoded_as_asked(encoding, expected):
    assert load(b"U\x01\xff.", encoding=encoding) == expected


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_call_of_the_shell_is_refused_by_name(tmp_path, protocol):
    victim = tmp_path / "touched"
    content = pickle.dumps(RunsOnLoad(os.system, f"touch {victim}"), protocol)
    with pytest.raises(ValueError, match=r"it imports (posix|nt)\.system"):
        load(content)
    assert not victim.exists()


@pytest.mark.parametrize(
    "function", [eval, exec, getattr, __import__, open, np.load, np.fromfile, pickle.loads]
)
def test_every_other_global_is_refused(function):
    with pytest.raises(ValueError, match=rf"it imports \S+\.{function.__name__}"):
        load(pickle.dumps(RunsOnLoad(function, "1")))


def test_a_dotted_name_does_not_reach_into_an_allowed_module():
    content = b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."
    with pytest.raises(ValueError, match=r"it imports numpy\.ndarray\.tofile"):
        load(content)


@pytest.mark.parametrize(
    "arguments", [(np.dtype, (0,), b"b"), (np.ndarray, (5,), b"b")], ids=["type", "shape"]
)
def test_an_array_starts_empty_or_is_refused(arguments):
    reconstruct = np.zeros(1).__reduce__()[0]
    with pytest.raises(ValueError, match="an array that starts as"):
        load(pickle.dumps(RunsOnLoad(reconstruct, *arguments)))


def test_bytes_are_encoded_as_latin1_alone():
    content = b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR."
    with pytest.raises(ValueError, match="bytes encoded as 'rot13'"):
        load(content)


@pytest.mark.parametrize("kept", [0, 1, 30, -1])
def test_a_truncated_pickle_is_refused(kept):
    whole = pickle.dumps({"data": np.zeros(100, np.uint8)}, protocol=2)
    with pytest.raises(ValueError, match="Not a pickle of arrays"):
        load(whole[:kept])


@pytest.mark.parametrize("content", [b"hello\n", b"\x89PNG\r\n", b".", b"\x80\xff.", b"h\x07."])
def test_what_is_no_pickle_is_refused(content):
    with pytest.raises(ValueError, match="Not a pickle of arrays"):
        load(content)


def test_a_caller_may_allow_other_globals():
    content = pickle.dumps(RunsOnLoad(complex, 1.0, 2.0))
    allowed = {("builtins", "complex"): complex}
    assert safe_pickle.Unpickler(io.BytesIO(content), allowed).load() == 1 + 2j
    with pytest.raises(pickle.UnpicklingError, match=r"numpy\.dtype"):
        safe_pickle.Unpickler(io.BytesIO(pickle.dumps(np.dtype("u1"))), allowed).load()
