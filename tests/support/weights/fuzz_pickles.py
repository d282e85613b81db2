"""Reads many hostile pickles in a child process: each is read, or refused with a ValueError.

python tests/support/weights/fuzz_pickles.py 100000
"""

import argparse
import collections
import faulthandler
import importlib.util
import os
import pickle
import pickletools
import random
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np

SECONDS = 20  # of processor time for one pickle
MEMORY = 2 << 30  # bytes, in addition to the process' size at its start

GOLDEN = Path(__file__).parents[2] / "golden" / "channel_att_16.pdparams"
IMPORTS = [
    *("numpy ndarray", "numpy dtype", "numpy.core.multiarray _reconstruct", "builtins tuple"),
    *("numpy.core.multiarray scalar", "_codecs encode", "collections OrderedDict"),
    *("argparse Namespace", "builtins set", "numpy.core.numeric _frombuffer", "os system"),
    *("builtins eval", "numpy ndarray.tofile", "copyreg _reconstructor", "datetime datetime"),
]
TEXTS = (b"f4", b"O", b"V8", b"<", b"|", b"bn2.weight", b"", b"latin1")
NUMBERS = (0, 1, 2, 3, 8, 255, (1 << 31) - 1)
ONE_BYTE_OPCODES = b"()]}\x8f)Nlt\x85\x86\x87Rbsuaeo012\x94\x93Q\x97\x98\x90\x91\x81\x92."
LEAVES = [
    *(b"J" + struct.pack("<i", number) for number in (-1, *NUMBERS)),
    *(b"X" + struct.pack("<I", len(text)) + text for text in TEXTS),
    *(b"B" + struct.pack("<I", size) + bytes(size) for size in (0, 4, 8, 64)),
    *(b"c" + name.replace(" ", "\n").encode() + b"\n" for name in IMPORTS),
]
OPCODES = [
    *LEAVES,
    *(bytes([opcode]) for opcode in ONE_BYTE_OPCODES),
    *(opcode + bytes([number]) for opcode in (b"h", b"q") for number in range(4)),
    *(opcode + struct.pack("<I", number) for opcode in (b"j", b"r") for number in NUMBERS),
    *(b + struct.pack("<Q", 1 << 40) for b in (b"\x82\1", b"\x8e", b"\x8d", b"\x96")),
]
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tC\1btR"
PLAIN = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0t"
DTYPES = [
    b"cnumpy\ndtype\n(X\2\0\0\0f4\x89\x88tR(K\3X\1\0\0\0<" + PLAIN + b"b",
    b"cnumpy\ndtype\n(X\2\0\0\0f4\x89\x88tR",
    b"cnumpy\ndtype\n(X\1\0\0\0O\x89\x88tR",
    b"cnumpy\ndtype\n(X\2\0\0\0V8\x89\x88tR(K\3X\1\0\0\0|N(X\1\0\0\0at}K\x08K\x08K\0tb",
]


class Tensor:
    """Paddle's, outside of a plain state dict."""

    def __reduce__(self):
        return tuple, (("linear_0.w_0", np.ones((2, 3), np.float32)),)


def seeds():
    """Returns true pickles, to be mutated."""
    array = np.arange(16, dtype=np.float32)
    contents = {
        "bn2.weight": array,
        "fortran": np.asfortranarray(np.ones((2, 3), ">f8")),
        "empty": np.empty((0, 3), np.int64),
        "nested": {"state_dict": {"module.bn2.bias": np.zeros(16, np.float16)}, "epoch": 3},
        "ordered": collections.OrderedDict(a=1, b=[1, 2.5, None, True, "text", b"bytes"]),
        "counted": collections.defaultdict(list, a=[1 << 70]),
        "scalar": np.float64(0.77),
        "namespace": argparse.Namespace(lr=0.1, tags={"a", "b"}),
        "tensor": Tensor(),
    }
    contents["itself"] = contents
    pickles = [pickle.dumps(c, p) for c in (contents, {"bn2.weight": array}) for p in range(2, 6)]
    return [*pickles, GOLDEN.read_bytes()]


def with_bytes_changed(rng, pickles):
    """Returns a pickle with some bytes changed, moved, repeated or removed."""
    content = bytearray(rng.choice(pickles))
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(content))
        end = min(len(content), at + rng.randrange(1, 20))
        match rng.randrange(5):
            case 0:
                content[at] = rng.randrange(256)
            case 1:
                content[at] ^= 1 << rng.randrange(8)
            case 2:
                del content[at : end - 1]
            case 3:
                content[at:at] = content[at:end] * rng.randrange(1, 4)
            case 4:
                content[at:end] = rng.choice((b"\xff" * 8, struct.pack("<q", 1 << 40), bytes(4)))
    return bytes(content)


def with_opcodes_changed(rng, pickles):
    """Returns a pickle with whole opcodes exchanged, repeated, removed, replaced or added."""
    content = rng.choice(pickles)
    starts = [position for _, _, position in pickletools.genops(content)]
    pairs = zip(starts, [*starts[1:], None], strict=True)
    opcodes = [content[start:end] for start, end in pairs]
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, other = rng.randrange(len(opcodes)), rng.randrange(len(opcodes))
        match rng.randrange(5):
            case 0:
                opcodes[at], opcodes[other] = opcodes[other], opcodes[at]
            case 1:
                opcodes[at:at] = opcodes[other : other + rng.randrange(1, 6)]
            case 2 if len(opcodes) > 1:
                del opcodes[at]
            case 3:
                opcodes[at] = rng.choice(OPCODES)
            case _:
                opcodes.insert(at, rng.choice(OPCODES))
    return b"".join(opcodes)


def value(rng, depth=0):
    """Returns the opcodes that leave one value on the stack, often of a wrong type."""
    leaf = rng.choice(LEAVES)
    if depth > 3 or rng.random() < 0.2:
        return leaf
    inner = [value(rng, depth + 1) for _ in range(rng.randrange(2, 5))]
    many = b"".join(inner)
    shape = rng.choice((b"K\4\x85", b"K\2K\2\x86", b"J\xff\xff\xff\xff\x85", b")", inner[0]))
    dtype = rng.choice((DTYPES[0], *DTYPES, inner[1]))
    data = rng.choice((b"C\x10" + bytes(16), b"C\x08" + bytes(8), leaf))
    array = ARRAY + b"(K\1" + shape + dtype + b"\x89" + data + b"tb"
    choices = [
        b"(" + many + b"t",
        b"](" + many + b"e",
        b"}(" + b"".join(leaf + item for item in inner) + b"u",
        leaf + b"(" + many + b"t" + rng.choice((b"R", b"\x81")),
        inner[0] + inner[1] + rng.choice((b"b", b"a", b"(e", b"\x90")),
        inner[0] + leaf + rng.choice(LEAVES) + b"s",
        inner[0] + b"q\1h\1\x86",
        *(array, array),
    ]
    return rng.choice(choices)


def deep(rng):
    """Returns a deeply nested tuple: alone, as a key, an item of a set, a state or a shape."""
    nested = b")" + b"\x85" * rng.choice((100, 20_000, 500_000))
    whole = (
        nested,
        b"}" + nested + b"K\1s",
        b"\x8f(" + nested + b"\x90",
        ARRAY + nested + b"b",
        ARRAY + b"(K\1" + nested + DTYPES[0] + b"\x89C\0tb",
        b")" + b"2\x86" * 60,  # 2 ** 60 items, if each were counted
    )
    return b"\x80\x04" + rng.choice(whole) + b"."


def repeated(number):
    """Returns a pickle that refers many times to one large value: n * n items, if each is read."""
    n = 20_000
    keys = [b"J" + struct.pack("<i", key) for key in range(n)]
    items = b"](" + b"K\1" * n + b"eq\0"
    mapping = b"}(" + b"".join(key + b"K\1" for key in keys) + b"uq\0"
    text = b"X" + struct.pack("<I", 8 * n) + b"a" * 8 * n
    halves = ARRAY + b"(K\1J" + struct.pack("<i", 4 * n) + b"\x85" + DTYPES[0].replace(b"f4", b"u2")
    halves += b"\x89B" + struct.pack("<I", 8 * n) + bytes(8 * n) + b"tbq\0"
    key = b"layer1.0." * n + b"Channel_Att.-"
    whole = (
        items + b"0ccollections\nOrderedDict\n](" + b"h\0" * n + b"e\x85R",
        b"c_codecs\nencode\nq\1(" + text + b"X\6\0\0\0latin1tq\0R](" + b"h\1h\0R" * n + b"e",
        mapping + b"0}(" + b"".join(key + b"h\0" for key in keys) + b"u",
        halves + b"0}(" + b"".join(key + b"h\0" for key in keys) + b"u",
        b"}X" + struct.pack("<I", len(key)) + key + halves + b"s",
    )
    return b"\x80\x04" + whole[number % len(whole)] + b"."


def case(seed, index, pickles):
    rng = random.Random(f"{seed} {index}")
    if index % 500 == 0:
        return deep(rng)
    if index % 400 == 200:
        return repeated(index // 400)
    if index % 3 == 0:
        return with_bytes_changed(rng, pickles)
    if index % 3 == 1:
        return with_opcodes_changed(rng, pickles)
    return b"\x80\x04}X\x0a\0\0\0bn2.weight" + value(rng) + b"s."


def read(content, entries):
    """Reads a pickle as `load_weights` does; returns whether it was accepted."""
    from keras_nam.weights import safe_pickle
    from keras_nam.weights.selection import select

    try:
        contents = safe_pickle.loads(content)
        selection = select({"official": entries}, contents)
        for array in selection.arrays.values():
            np.asarray(array).sum()
    except ValueError as error:
        assert len(str(error)) < 1000  # noqa: PT017
        return False
    return True


def child(count, seed, first=0):
    import keras_nam
    from keras_nam.weights import formats

    faulthandler.enable()
    layer = keras_nam.NAMChannelAttention()
    layer.build((None, 4, 4, 16))
    entries = formats.entries(layer, "official")
    pickles = seeds()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    accepted = 0
    for index in range(first, first + count):
        if index % 1000 == 0:
            print(f"at {index}", flush=True)
        content = case(seed, index, pickles)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # SIGPROF ends the process
        try:
            accepted += read(content, entries)
        except BaseException:
            print(f"index {index}: {content[:400]!r}", flush=True)
            raise
    print(f"{count} pickles: {accepted} read, {count - accepted} refused", flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, help="how many pickles")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="index of the first, to repeat one")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        child(arguments.count, arguments.seed, arguments.first)
        return 0
    command = [sys.executable, __file__, "--child", str(arguments.count)]
    command += ["--seed", str(arguments.seed), "--first", str(arguments.first)]
    # The backend that starts fastest; in Keras 3.10 it imports JAX.
    fastest = {"KERAS_BACKEND": "numpy"} if importlib.util.find_spec("jax") else {}
    env = {**os.environ, **fastest}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        print(f"status {done.returncode} {done.stdout[-800:]} {done.stderr[-2000:]}")
        return 1
    print(done.stdout.strip().splitlines()[-1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
