"""ONNX Runtime's execution providers, without its silent fallback.

ONNX Runtime falls back to the CPU without an error if a provider's libraries are missing. Here the
provider of a session is compared with the one that was asked for.
"""

import contextlib
import json
import tempfile
from collections import Counter
from pathlib import Path

import onnxruntime

from export.runtime.native_log import one_line
from training.cli import InputError, check_name

CPU = "CPUExecutionProvider"
# Name on the command line -> (ONNX Runtime's name, its options, what it needs).
PROVIDERS = {
    "cpu": (CPU, {}, "onnxruntime"),
    # TensorFloat-32 keeps 10 of the 23 bits of float32's mantissa.
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}, "onnxruntime-gpu and CUDA 12, cuDNN 9"),
    "tensorrt": ("TensorrtExecutionProvider", {}, "onnxruntime-gpu and TensorRT 10"),
    # OpenVINO's own default on a CPU with AMX is bfloat16, which keeps 7 bits.
    "openvino": (
        "OpenVINOExecutionProvider",
        {"device_type": "CPU", "precision": "FP32"},
        "onnxruntime-openvino",
    ),
}


def open_session(path, asked="auto", options=None):
    """Opens an ONNX file on the provider that is asked for.

    Args:
        path: The ONNX file.
        asked: A key of `PROVIDERS`, or `"auto"`: CUDA where it works, else the CPU.
        options: `onnxruntime.SessionOptions`, or `None`.

    Returns:
        An `onnxruntime.InferenceSession`; `session.get_providers()[0]` is the provider.

    Raises:
        InputError: If the provider does not exist, is not in this ONNX Runtime or does not start,
            or the file is not a valid model.
    """
    if asked == "auto":
        with contextlib.suppress(InputError):  # no wheel for GPUs, or no GPU
            return open_session(path, "cuda", options)
        asked = "cpu"
    check(asked)
    wanted, settings, needs = PROVIDERS[asked]
    if asked in ("cuda", "tensorrt"):
        onnxruntime.preload_dlls()  # of the CUDA wheels, which are on no library path
    options = options or onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if asked == "openvino" and options.intra_op_num_threads:
        # OpenVINO does not use the session's threads.
        settings = {**settings, "num_of_threads": str(options.intra_op_num_threads)}
    fallback = [] if wanted == CPU else [CPU]
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=[(wanted, settings), *fallback]
        )
    except Exception as error:  # ONNX Runtime's exceptions have no public base class
        raise InputError(f"{path} is not a valid ONNX model: {one_line(error)}") from None
    got = session.get_providers()[0]
    if got != wanted:
        raise InputError(
            f"--provider {asked}: ONNX Runtime fell back to {got}; {wanted} needs {needs}, and a "
            "device and driver for them"
        )
    return session


def check(asked):
    """Raises an InputError unless this ONNX Runtime was built with the provider."""
    check_name("provider", asked, ("auto", *PROVIDERS))
    if asked == "auto":
        return
    wanted, _, needs = PROVIDERS[asked]
    available = onnxruntime.get_available_providers()
    if wanted not in available:
        raise InputError(
            f"--provider {asked}: ONNX Runtime {onnxruntime.__version__} here has "
            f"{', '.join(available)}; {wanted} needs {needs}"
        )


def nodes_by_provider(path, asked, feeds):
    """Returns how many of a model's nodes each provider runs on `feeds`: name -> count."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "nodes")
        session = open_session(path, asked, options)
        session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = {
        event["name"]: event["args"]["provider"]
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    }
    return dict(Counter(nodes.values()))
