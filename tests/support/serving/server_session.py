"""Loads a SavedModel as TensorFlow Serving does, by TensorFlow's C API, without Python TensorFlow.

Usage: server_session.py SAVED_MODEL < REQUESTS > ANSWERS, both JSON. A request is a list
[input, output, shape or encoded pictures], tensors by name and index (`name:0`), pictures in
base64. An answer is [status code, the outputs' first two rows or the message].

A SavedModel of Keras' own may load in Python and fail here on every request.
"""

import base64
import ctypes
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import numpy.random  # before TensorFlow's libraries: after them, its import crashes

FLOAT, STRING = 1, 7
STRING_SIZE = 24  # of a TF_TString
BROKEN = {"NaN": np.nan, "infinity": -np.inf}  # name of a request -> its last pixel


class Output(ctypes.Structure):
    """TF_Output: an operation and the index of its output."""

    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


def library():
    """Returns TensorFlow's C API, from the wheel's libraries."""
    folder = Path(importlib.util.find_spec("tensorflow").origin).parent
    ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"))
    api = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"))
    for name in (
        "TF_NewStatus",
        "TF_NewGraph",
        "TF_NewSessionOptions",
        "TF_LoadSessionFromSavedModel",
        "TF_AllocateTensor",
        "TF_TensorData",
        "TF_GraphOperationByName",
    ):
        getattr(api, name).restype = ctypes.c_void_p
    api.TF_Message.restype = ctypes.c_char_p
    api.TF_Dim.restype = ctypes.c_int64
    return api


class Session:
    """A session over the tag `serve`."""

    def __init__(self, path):
        self.api = library()
        self.status = ctypes.c_void_p(self.api.TF_NewStatus())
        self.graph = ctypes.c_void_p(self.api.TF_NewGraph())
        self.session = ctypes.c_void_p(
            self.api.TF_LoadSessionFromSavedModel(
                ctypes.c_void_p(self.api.TF_NewSessionOptions()),
                None,
                str(path).encode(),
                (ctypes.c_char_p * 1)(b"serve"),
                1,
                self.graph,
                None,
                self.status,
            )
        )
        code, message = self.answer()
        if code:
            raise RuntimeError(message)

    def answer(self):
        """Returns the code (0: done) and message of the last call."""
        message = self.api.TF_Message(self.status).decode(errors="replace")
        return self.api.TF_GetCode(self.status), message

    def run(self, tensor, input_name, output_name):
        """Returns the status code, and the float32 outputs [N, classes] or the message."""
        outputs = (ctypes.c_void_p * 1)()
        self.api.TF_SessionRun(
            self.session,
            None,
            ctypes.byref(self._output(input_name)),
            (ctypes.c_void_p * 1)(tensor),
            1,
            ctypes.byref(self._output(output_name)),
            outputs,
            1,
            None,
            0,
            None,
            self.status,
        )
        code, message = self.answer()
        return (code, message) if code else (code, self._array(ctypes.c_void_p(outputs[0])))

    def floats(self, array):
        """Returns a tensor of a float32 array."""
        tensor = self._allocate(FLOAT, array.shape, array.nbytes)
        if array.nbytes:
            ctypes.memmove(self.api.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
        return tensor

    def strings(self, values):
        """Returns a tensor of a list of bytes."""
        tensor = self._allocate(STRING, (len(values),), STRING_SIZE * len(values))
        for index, value in enumerate(values):
            place = ctypes.c_void_p(self.api.TF_TensorData(tensor) + STRING_SIZE * index)
            self.api.TF_StringInit(place)
            self.api.TF_StringCopy(place, value, ctypes.c_size_t(len(value)))
        return tensor

    def _allocate(self, dtype, shape, size):
        lengths = (ctypes.c_int64 * len(shape))(*shape)
        return ctypes.c_void_p(
            self.api.TF_AllocateTensor(dtype, lengths, len(shape), ctypes.c_size_t(size))
        )

    def _output(self, name):
        operation_name, index = name.split(":")
        operation = self.api.TF_GraphOperationByName(self.graph, operation_name.encode())
        if operation is None:
            raise RuntimeError(f"no operation {operation_name}")
        return Output(operation, int(index))

    def _array(self, tensor):
        shape = tuple(self.api.TF_Dim(tensor, i) for i in range(self.api.TF_NumDims(tensor)))
        data = ctypes.cast(self.api.TF_TensorData(tensor), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(data, shape).copy()


def main(path):
    session = Session(path)
    answers = {}
    for what, (input_name, output_name, content) in json.load(sys.stdin).items():
        if all(isinstance(part, str) for part in content):
            tensor = session.strings([base64.b64decode(part) for part in content])
        else:
            images = np.random.default_rng(0).uniform(0, 255, content).astype(np.float32)
            if what in BROKEN:
                images.flat[-1] = BROKEN[what]
            tensor = session.floats(images)
        code, result = session.run(tensor, input_name, output_name)
        answers[what] = [code, result if code else result[:2].tolist()]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
