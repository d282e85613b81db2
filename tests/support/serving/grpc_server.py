"""A gRPC server on the loopback interface, made of TensorFlow Serving's official stubs."""

import contextlib
import json
import time
from concurrent import futures

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.support.serving.replay import RECORDED

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(3, 5)).astype(np.float32)
PROBABILITIES = np.array(tf.nn.softmax(LOGITS))
# The model's name decides how the server fails.
FAULTS = {
    "none": (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(none)"),
    "crowded": (grpc.StatusCode.UNAVAILABLE, "The batch scheduling queue is full"),
    "picky": (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Unknown image file format.\n\t [[{{function_node map_while_body_102}}{{node x}}]]",
    ),
}


def recorded(what):
    return json.loads(RECORDED[what]["response"]["body"])


class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    requests = []  # noqa: RUF012 -- shared with the tests

    def Predict(self, request, context):  # noqa: N802 -- a name of the stubs
        self.requests.append(request)
        name = request.model_spec.name
        if name in FAULTS:
            context.abort(*FAULTS[name])
        if name == "slow":
            time.sleep(0.5)
        outputs = {"logits": LOGITS, "probabilities": PROBABILITIES}
        response = predict_pb2.PredictResponse()
        for output in ["logits"] if name == "half" else outputs:
            response.outputs[output].CopyFrom(tf.make_tensor_proto(outputs[output]))
        if name == "large":  # 4.8 MB
            for output in outputs:
                tensor = tf.make_tensor_proto(np.zeros((3, 200_000), np.float32))
                response.outputs[output].CopyFrom(tensor)
        if name == "broken":
            response.outputs["logits"].tensor_shape.dim[0].size = 1000
        return response

    def GetModelMetadata(self, request, context):  # noqa: N802
        found = get_model_metadata_pb2.SignatureDefMap()
        json_format.ParseDict(recorded("metadata")["metadata"]["signature_def"], found)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(found)
        return response


class Models(model_service_pb2_grpc.ModelServiceServicer):
    def GetModelStatus(self, request, context):  # noqa: N802
        return json_format.ParseDict(
            recorded("status"), get_model_status_pb2.GetModelStatusResponse()
        )


class Served(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers with a SavedModel's own scores."""

    def __init__(self, folder):
        self.signatures = tf.saved_model.load(str(folder)).signatures

    def Predict(self, request, context):  # noqa: N802
        function = self.signatures[request.model_spec.signature_name or "serving_default"]
        given = {name: tf.constant(tf.make_ndarray(t)) for name, t in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        for name, found in function(**given).items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(found))
        return response

    def GetModelMetadata(self, request, context):  # noqa: N802
        found = get_model_metadata_pb2.SignatureDefMap()
        for name, function in self.signatures.items():
            definition = found.signature_def[name]
            sides = (
                (definition.inputs, function.structured_input_signature[1]),
                (definition.outputs, function.structured_outputs),
            )
            for tensors, specs in sides:
                for key, spec in specs.items():
                    tensors[key].tensor_shape.CopyFrom(spec.shape.as_proto())
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(found)
        return response


@contextlib.contextmanager
def running(saved_model=None):
    """Yields the address of a server: of a SavedModel, or one that answers any three pictures."""
    predictions = Served(saved_model) if saved_model else Predictions()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(predictions, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait(5)
