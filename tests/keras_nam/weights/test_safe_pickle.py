"""The reader of pickles returns arrays and inert stand-ins, and runs nothing."""

import argparse
import collections
import datetime
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from keras_nam.weights.safe_pickle import Array, Inert, loads
from tests.support.weights import fuzz_pickles
from tests.support.weights.checkpoint_files import Calls

ARRAYS = [
    np.arange(12, dtype=np.uint8).reshape(3, 4),
    np.asfortranarray(np.ones((2, 3), np.float32)),
    np.array([1.5, -2]).astype(">f8"),
    np.empty((0, 3), np.int64),
    np.array(True),
]
BESIDE = [
    np.float64(0.77),
    np.str_("text"),
    argparse.Namespace(lr=0.1),
    {1, 2},
    frozenset("a"),
    datetime.datetime(2024, 1, 1),
    Path("runs"),
    1j,
]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_what_checkpoints_hold(protocol):
    plain = {
        "numbers": [0, -1, 255, 65536, 1 << 70, 2.5, True, None],
        3: ("a", ("b", "c"), (1, 2, 3), (1, 2, 3, 4), (), b"\x00\xff"),
        "ordered": collections.OrderedDict(a=1, b=[{}]),
        "counted": collections.defaultdict(list, a=[1]),
        "bytes": [bytes([n, n]) for n in range(256)],
    }
    assert loads(pickle.dumps(plain, protocol)) == plain
    for array in ARRAYS:
        read = loads(pickle.dumps({"data": array, "again": array}, protocol))
        assert read["again"] is read["data"]
        np.testing.assert_array_equal(read["data"].values, array)
        assert read["data"].values.dtype == array.dtype
    text = loads(pickle.dumps([np.array(["a", "b"]), np.array([b"c"])], protocol))
    assert [array.values for array in text] == [None, None]
    for value in BESIDE:
        read = loads(pickle.dumps({"beside": value, "weight": np.ones(2)}, protocol))
        assert type(read["beside"]) is Inert
        np.testing.assert_array_equal(read["weight"].values, np.ones(2))


def test_paddles_tensor_is_a_name_and_an_array():
    name, array = loads(pickle.dumps(Calls(tuple, ("linear_0.w_0", np.ones(2)))))
    assert name == "linear_0.w_0"
    np.testing.assert_array_equal(array.values, np.ones(2))


def test_text_of_python_2_is_latin1():
    assert loads(b"U\x01\xff.") == "\xff"


@pytest.mark.parametrize(
    "function", [os.system, eval, exec, getattr, __import__, open, np.fromfile, pickle.loads]
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_every_other_import_is_refused_by_name(tmp_path, function, protocol):
    content = pickle.dumps(Calls(function, f"touch {tmp_path}/touched"), protocol)
    with pytest.raises(ValueError, match=rf"\S+\.{function.__name__}"):
        loads(content)
    assert not list(tmp_path.iterdir())


def imported(name):
    module, attribute = name.rsplit(".", 1)
    return b"c" + f"{module}\n{attribute}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def dtype(code, state=b""):
    return imported("numpy.dtype") + b"(" + text(code) + b"\x89\x88tR" + (state and state + b"b")


def dtype_state(order="<", fields=b"NNN", size=b"J\xff\xff\xff\xffJ\xff\xff\xff\xff"):
    return b"(K\x03" + text(order) + fields + size + b"K\x00t"


EMPTY = imported("numpy.core.multiarray._reconstruct") + b"(cnumpy\nndarray\n(K\0tC\1btR"


def array(shape=b"K\x02\x85", kind=None, data=b"C\x08" + bytes(8), version=b"K\x01"):
    return EMPTY + b"(" + version + shape + (kind or dtype("f4")) + b"\x89" + data + b"tb."


OBJECTS = dtype_state(
    "|", b"N(" + text("a") + b"t}" + text("a") + dtype("O") + b"K\0\x86s", b"K\x08K\x08"
)


@pytest.mark.parametrize(
    "kind",
    [
        *(dtype("O"), dtype("V8"), dtype("M8"), dtype("V8", OBJECTS), dtype("f8", OBJECTS)),
        *(dtype("f8", dtype_state("x")), dtype("f8", dtype_state(size=b"K\x08K\x08"))),
    ],
)
def test_arrays_of_other_types_are_refused(kind):
    read = loads(array(kind=dtype("f8", dtype_state(">")), shape=b"K\x01\x85"))
    assert (read.values.dtype, read.values.shape) == (np.dtype(">f8"), (1,))
    with pytest.raises(ValueError, match="plain number type"):
        loads(array(kind=kind, shape=b"K\x01\x85"))


@pytest.mark.parametrize(
    "content",
    [
        array(kind=text("f4")),
        array(shape=b"K\x03\x85"),
        array(shape=b"K\x01\x85"),
        array(shape=b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86"),
        array(shape=b"]K\x02a"),
        array(shape=b"G@\0\0\0\0\0\0\0\x85"),
        array(shape=b"K\x00\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x86", data=b"C\0"),
        array(shape=b"(" + b"K\x01" * 70 + b"t", data=b"C\x04" + bytes(4)),
        array(data=b"]"),
        array(data=b"](" + b"K\0" * 8 + b"e"),
        EMPTY + b"N" + b"b.",
        EMPTY + b"}" + text("a") + b"K\x01sb.",
    ],
)
def test_arrays_of_another_size_are_refused(content):
    with pytest.raises(ValueError, match="array"):
        loads(content)


@pytest.mark.parametrize(
    "target", ["numpy.dtype", "numpy.ndarray", "builtins.set", "Array", "text"]
)
@pytest.mark.parametrize(
    ("opcodes", "name"),
    [
        (b"K\x01a", "APPEND"),
        (b"(K\x01e", "APPENDS"),
        (b"K\x00K\x01s", "SETITEM"),
        (b"(K\x00K\x01u", "SETITEMS"),
        (b"Nb", "BUILD"),
        (b"(K\x01\x90", "ADDITEMS"),
    ],
)
def test_state_and_items_of_anything_else_are_refused_by_name(target, opcodes, name):
    on_stack = {"Array": EMPTY, "text": text("a")}.get(target) or imported(target)
    expected = "array whose state" if (target, name) == ("Array", "BUILD") else f"opcode {name} on"
    with pytest.raises(ValueError, match=expected):
        loads(on_stack + opcodes + b".")


ITEMS = b"](" + b"K\x01" * 50 + b"eq\x00"
TEXT = b"(" + text("a" * 999) + text("latin1") + b"tq\x00"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (imported("collections.OrderedDict") + ITEMS + b"0](" + b"h\0" * 9 + b"e\x85R.", "pairs"),
        (imported("builtins.tuple") + b"q\x01" + ITEMS + b"\x85q\x02" + b"Rh\1h\2" * 9, "again"),
        (imported("_codecs.encode") + b"q\x01" + TEXT + b"Rh\1h\0" * 9, "again"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", r"numpy\.ndarray\.tofile"),
        (b"\x80\x04K\x01K\x02\x93.", "not a name"),
        (b"c" + b"a" * 100_000 + b"\nb\n.", "imports aaa"),
        (b"\x82\x01.", "EXT1"),
        (b"Psome id\n.", "PERSID"),
        (b"K\x01Q.", "BINPERSID"),
        (b"\x97.", "NEXT_BUFFER"),
        (text("a") + b")R.", "a call of a str"),
        (imported("numpy.dtype") + b"K\x01R.", "tuple of arguments"),
        (imported("_codecs.encode") + b"(" + text("a") + text("rot13") + b"tR.", "latin1"),
        (b"\x8e" + struct.pack("<Q", 1 << 62) + b".", "expected 4611686018427387904 bytes"),
        (b"\x96" + struct.pack("<Q", 1 << 62) + b".", "expected 4611686018427387904 bytes"),
        (b"}" + b")" + b"\x85" * 200_000 + b"K\x01s.", "key is a tuple"),
        (b"}\x8b" + struct.pack("<I", 1000) + b"\x01" * 1000 + b"K\x01s.", "key is a int"),
        (b"}(K\x01u.", "a key without"),
        (b"}(]K\x01u.", "key is a list"),
    ],
)
def test_hostile_opcodes_are_refused(content, message):
    with pytest.raises(ValueError, match=message) as error:
        loads(content)
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()


def test_a_huge_memo_and_deep_nesting_take_no_memory():
    """The C unpickler allocates as many places as the number of a memo; this one has a dict."""
    assert loads(b"K\x01r" + struct.pack("<I", (1 << 32) - 1) + b".") == 1
    assert len(loads(b")" + b"\x85" * 200_000 + b".")) == 1


def test_calling_numpys_array_allocates_nothing():
    read = loads(imported("numpy.ndarray") + b"(\x8a\x06" + bytes(5) + b"\x01tR.")
    assert type(read) is Inert
    assert type(loads(EMPTY + b".")) is Array
    assert loads(EMPTY + b".").values is None


def test_other_content_is_refused():
    whole = pickle.dumps({"data": np.zeros(100, np.uint8)}, protocol=2)
    truncated = [whole[:kept] for kept in (0, 1, 30, -1)]
    for content in [b"hello\n", b"\x89PNG\r\n", b".", b"\x80\xff.", b"h\x07.", *truncated]:
        with pytest.raises(ValueError, match="Not a pickle of arrays"):
            loads(content)


def test_a_few_thousand_fuzzed_pickles():
    """`python tests/support/weights/fuzz_pickles.py 100000` takes minutes."""
    assert fuzz_pickles.main(["2000", "--seed", "1"]) == 0
