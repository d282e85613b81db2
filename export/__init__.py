"""The application that ships: verified exports of a trained model, and clients that use them.

from export import export_onnx, verify_onnx, open_model, Preprocessing
"""

_PUBLIC = ("export_onnx", "verify_onnx", "open_model", "Preprocessing")


def __getattr__(name):
    """Imports the public functions when they are used: TensorFlow takes seconds."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from export import api

    return getattr(api, name)
