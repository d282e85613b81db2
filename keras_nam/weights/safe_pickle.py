"""Reads pickles of arrays by an interpreter that imports and calls nothing from the file.

`pickle.Unpickler` with a restricted `find_class` is not enough. It calls `__setstate__`, `append`
and `__setitem__` of any object on its stack, allocates the size that an opcode declares, and hashes
nested tuples until the C stack overflows. Here `pickletools` parses the opcodes, and each of them
applies only to the types that are named below. Protocols 0 and 1 are not read.
"""

import math
import pickletools

import numpy as np

NUMBER_TYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}


class Inert:
    """Stands for an object that is not an array. Its content is dropped."""

    __slots__ = ()

    def __new__(cls, *_):
        return super().__new__(cls)

    def __setstate__(self, state):
        pass


class DType:
    """Stands for a `numpy.dtype`: plain numbers of a byte order, or a type that is not read."""

    __slots__ = ("code", "order")

    def __init__(self, code=None, *_):
        self.code, self.order = code, "="

    def __setstate__(self, state):
        if self.is_text:
            return
        is_state = type(state) is tuple and len(state) == 8
        is_plain = is_state and state[2:] == (None, None, None, -1, -1, 0)
        if is_plain and state[1] in ("<", ">", "=", "|"):
            self.order = state[1]
        else:
            self.code = None

    @property
    def is_text(self):
        return type(self.code) is str and self.code[:1] in ("S", "U")

    def to_numpy(self):
        if type(self.code) is not str or self.code not in NUMBER_TYPES:
            raise ValueError("an array that is not of a plain number type")
        return np.dtype(self.order.replace("|", "=") + self.code)


class Array:
    """Stands for a `numpy.ndarray`; `values` is set by its state, except for an array of text."""

    __slots__ = ("values",)

    def __init__(self, *_):
        self.values = None

    def __setstate__(self, state):
        if type(state) is not tuple or len(state) not in (4, 5):
            raise ValueError("an array whose state is not (version, shape, dtype, order, data)")
        shape, dtype, is_fortran, data = state[-4:]
        if type(dtype) is DType and dtype.is_text:
            return
        self.values = _array(data, dtype, shape, "F" if is_fortran else "C")


def _array(data, dtype, shape, order):
    if type(dtype) is not DType:
        raise ValueError("an array without a dtype")
    dtype = dtype.to_numpy()
    if type(data) is str:  # the byte strings of Python 2
        data = data.encode("latin1")
    is_shape = type(shape) is tuple and len(shape) <= 32
    if not is_shape or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise ValueError("an array whose shape is not a tuple of sizes")
    size = math.prod(shape) * dtype.itemsize
    if type(data) not in (bytes, bytearray) or len(data) != size:
        held = f"{len(data)} bytes" if type(data) in (bytes, bytearray) else type(data).__name__
        raise ValueError(f"an array of {list(shape)} {dtype}, {size} bytes, that holds {held}")
    return np.ndarray(shape, dtype, data, order=order)


def _from_buffer(data, dtype, shape, order):
    """Protocol 5 pickles an array as `numpy.core.numeric._frombuffer(data, ...)`."""
    array = Array()
    array.__setstate__((shape, dtype, order == "F", data))
    return array


def _encode(text, encoding="latin1"):
    """Python 3 pickles bytes for protocol 2 as `_codecs.encode(text, "latin1")`."""
    if encoding != "latin1":
        raise ValueError("bytes that are not encoded as latin1")
    return text.encode("latin1")


def _bytes(*_):
    """Protocol 2 pickles `b""`, also as an empty array's content, as `bytes()`."""
    return b""


def _tuple(items=()):
    """Paddle pickles a tensor as `tuple((name, array))`."""
    return tuple(items) if type(items) in (tuple, list) else ()


class Mapping:
    """Stands for the subclasses of `dict`: calling it returns a plain one."""

    def __new__(cls, items=(), *_):
        pairs = items if type(items) is list else ()
        if not all(type(pair) in (tuple, list) and len(pair) == 2 for pair in pairs):
            raise ValueError("a dictionary of items that are not pairs")
        return _set_items({}, [part for pair in pairs for part in pair])


# Types that checkpoints hold beside arrays. Every other import is refused.
_INERT = """
    argparse.Namespace builtins.bytearray builtins.complex builtins.dict builtins.float
    builtins.frozenset builtins.int builtins.list builtins.range builtins.set builtins.slice
    builtins.object builtins.str copyreg._reconstructor datetime.date datetime.datetime
    datetime.time datetime.timedelta datetime.timezone
    decimal.Decimal fractions.Fraction numpy.core.multiarray.scalar numpy.ndarray
    pathlib.Path pathlib.PosixPath pathlib.PurePosixPath pathlib.WindowsPath
    pathlib._local.PosixPath pathlib._local.WindowsPath types.SimpleNamespace uuid.UUID
"""
STAND_INS = {
    **dict.fromkeys(_INERT.split(), Inert),
    "_codecs.encode": _encode,
    "builtins.bytes": _bytes,
    "builtins.tuple": _tuple,
    "collections.Counter": Mapping,
    "collections.OrderedDict": Mapping,
    "collections.defaultdict": Mapping,
    "numpy.core.multiarray._reconstruct": Array,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy.dtype": DType,
}
_COPYING = (_encode, _from_buffer, _tuple, Mapping)  # their first argument
_RENAMED = {"__builtin__.": "builtins.", "copy_reg.": "copyreg.", "numpy._core.": "numpy.core."}

_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINSTRING", "SHORT_BINSTRING", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def loads(content):
    """Returns a pickle's content: numbers, text, `Array`, and dicts, lists and tuples of them.

    Text of Python 2 is decoded as latin1.

    Args:
        content: Bytes of the pickle.

    Raises:
        ValueError: If this is not a complete pickle, or holds another type. The message names the
            import.
    """
    try:
        return _interpret(content)
    except ValueError as error:
        reason = str(error)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__} while reading it"
    raise ValueError(f"Not a pickle of arrays: {_printable(reason)}")


def _interpret(content):
    stack, marks, memo = [], [], {}
    budget = len(content)

    def count_copies(*values):
        """A true pickle copies a value once, so less than it has bytes; references cost nothing."""
        nonlocal budget
        budget -= sum(len(value) for value in values if type(value) in (str, list, tuple))
        if budget < 0:
            raise ValueError("it copies parts of itself again and again")

    def since_mark():
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, argument, position in pickletools.genops(content):
        name = opcode.name
        if name in _LITERALS:
            stack.append(argument)
            continue
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
            continue
        match name:
            case "PROTO" | "FRAME":
                pass
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "MARK":
                marks.append(len(stack))
            case "POP" if marks and marks[-1] == len(stack):
                marks.pop()
            case "POP":
                stack.pop()
            case "POP_MARK":
                since_mark()
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append(Inert())
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "FROZENSET":
                since_mark()
                stack.append(Inert())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(name[-1])
                if len(stack) < size:
                    raise IndexError
                stack[-size:] = [tuple(stack[-size:])]
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if name == "APPEND" else since_mark()
                _target(stack, name, list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else since_mark()
                _set_items(_target(stack, name, dict), items)
            case "ADDITEMS":
                since_mark()
                _target(stack, name, Inert)
            case "BUILD":
                state = stack.pop()
                target = _target(stack, name, Array, DType, Inert, dict)
                if type(target) is Array and type(state) is tuple:
                    count_copies(*state[-1:])  # the text of Python 2
                if type(target) is not dict:  # a dictionary's attributes are dropped
                    target.__setstate__(state)
            case "GLOBAL":
                stack.append(_stand_in(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_stand_in(module, attribute))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments, count_copies))
            case "NEWOBJ_EX":
                _, arguments, function = stack.pop(), stack.pop(), stack.pop()
                stack.append(_call(function, arguments, count_copies))
            case "STOP":
                return stack.pop()
            case _:
                raise ValueError(f"opcode {name} at byte {position}")
    raise ValueError("it has no end")


def _stand_in(module, attribute):
    if type(module) is not str or type(attribute) is not str:
        raise ValueError("it imports something that is not a name")
    name = f"{module}.{attribute}"
    for old, new in _RENAMED.items():
        name = new + name.removeprefix(old) if name.startswith(old) else name
    if name not in STAND_INS:
        raise ValueError(f"it imports {_printable(name)}, which weights do not need")
    return STAND_INS[name]


def _call(function, arguments, count_copies):
    if type(arguments) not in (tuple, list):
        raise ValueError("a call without a tuple of arguments")
    if not callable(function):  # only the stand-ins are
        raise ValueError(f"a call of a {type(function).__name__}")
    count_copies(arguments, *(arguments[:1] if function in _COPYING else ()))
    return function(*arguments)


def _target(stack, opcode, *types):
    if type(stack[-1]) not in types:
        raise ValueError(f"opcode {opcode} on a {type(stack[-1]).__name__}")
    return stack[-1]


def _set_items(mapping, items):
    if len(items) % 2:
        raise ValueError("a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Hashing overflows the C stack for nested tuples and takes long for huge integers.
        is_key = key is None or type(key) in (str, bytes, bool, float)
        if not is_key and not (type(key) is int and abs(key) < 2**64):
            raise ValueError(f"a dictionary whose key is a {type(key).__name__}")
        mapping[key] = value
    return mapping


def _printable(text, longest=200):
    return "".join(c if c.isprintable() else "?" for c in text[:longest])
