"""Loads a SavedModel as TensorFlow Serving does, by TensorFlow's C API, without Python TensorFlow.

Usage: server_session.py SAVED_MODEL INPUT OUTPUT, the tensors' names without their `:0`.

Prints as JSON the status code and the outputs (or the message) of each request, good and malformed.
A SavedModel of Keras' own may load in Python and fail here on every request.
"""

import ctypes
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import numpy.random  # before TensorFlow's libraries: after them, its import crashes

FLOAT = 1
REQUESTS = {
    "two images": (2, 32, 32, 3),
    "rank 3": (32, 32, 3),
    "rank 1": (2,),
    "another size": (2, 8, 8, 3),
    "four channels": (2, 32, 32, 4),
    "no image": (0, 32, 32, 3),
    "many images": (10_000, 32, 32, 3),
    "two images again": (2, 32, 32, 3),
}


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

    def run(self, array, input_name, output_name):
        """Returns the status code, and the float32 outputs [N, classes] or the message."""
        shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        tensor = ctypes.c_void_p(
            self.api.TF_AllocateTensor(FLOAT, shape, array.ndim, ctypes.c_size_t(array.nbytes))
        )
        if array.nbytes:
            ctypes.memmove(self.api.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
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

    def _output(self, name):
        operation = self.api.TF_GraphOperationByName(self.graph, name.encode())
        if operation is None:
            raise RuntimeError(f"no operation {name}")
        return Output(operation, 0)

    def _array(self, tensor):
        shape = tuple(self.api.TF_Dim(tensor, i) for i in range(self.api.TF_NumDims(tensor)))
        data = ctypes.cast(self.api.TF_TensorData(tensor), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(data, shape).copy()


def main(path, input_name, output_name):
    session = Session(path)
    answers = {}
    for what, shape in REQUESTS.items():
        images = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
        code, result = session.run(images, input_name, output_name)
        answers[what] = [code, result if code else result[:2].tolist()]
    nan = np.full((1, 32, 32, 3), np.nan, np.float32)
    answers["NaN"] = [session.run(nan, input_name, output_name)[0], None]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
