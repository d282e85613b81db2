"""A client of TensorFlow Serving over gRPC, with the interface of `rest.RestClient`.

It imports TensorFlow, because `tensorflow-serving-api` sends its tensors.
"""

import grpc
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from export.runtime.rest import parse_signatures, parse_status, refused, timed_out, unavailable
from export.runtime.signatures import IMAGE_BYTES, input_of, scores
from training.cli import InputError


class GrpcClient:
    """A client of the gRPC interface, without encryption.

    Args:
        target: The server's address, `host:8500`.
        model: The model's name on the server.
        version: Integer, a version of the model; `None` for the newest on the server.
        timeout: Seconds for a whole call.
    """

    labels = rule = None  # a server knows neither class names nor how pictures are resized

    def __init__(self, target, model="keras_nam", version=None, timeout=10.0):
        host, _, port = target.rpartition(":")
        if not host or "/" in target or not port.isdecimal():
            raise InputError(f"{target!r} is not an address such as localhost:8500")
        # By default an answer of more than 4 MiB fails.
        unlimited = [("grpc.max_receive_message_length", -1)]
        channel = grpc.insecure_channel(target, options=unlimited)
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(channel)
        self._spec = model_pb2.ModelSpec(name=model)
        if version is not None:
            self._spec.version.value = version
        self.source = target
        self.timeout = timeout

    def predict(self, pictures):
        """Sends pictures; argument and result are the same as for `RestClient.predict`."""
        wanted = input_of(pictures)
        request = predict_pb2.PredictRequest(model_spec=self._spec)
        request.model_spec.signature_name = wanted.signature
        dtype = tf.string if wanted is IMAGE_BYTES else tf.float32
        request.inputs[wanted.name].CopyFrom(tf.make_tensor_proto(pictures, dtype))
        response = self._call(self._predictions.Predict, request)
        try:
            outputs = {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.source} answered a broken tensor ({error})") from None
        return scores(outputs, len(pictures), self.source)

    def status(self):
        """Returns version -> state, such as `"AVAILABLE"`, of the versions on the server."""
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec)
        response = self._call(self._models.GetModelStatus, request)
        return parse_status(_as_json(response), self.source)

    def signatures(self):
        """Returns what the model declares: dictionary name -> `Signature`."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec, metadata_field=["signature_def"]
        )
        response = self._call(self._predictions.GetModelMetadata, request)
        found = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)
        return parse_signatures({"signature_def": _as_json(found)}, self.source)

    def _call(self, method, request):
        try:
            return method(request, timeout=self.timeout)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise timed_out(self.source, self.timeout)
        if code is grpc.StatusCode.UNAVAILABLE:
            raise unavailable(self.source, details)
        raise refused(self.source, code.name, details)


def _as_json(message):
    """Returns the form in which REST has the same message."""
    return MessageToDict(message, preserving_proto_field_name=True)
