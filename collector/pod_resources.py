"""Which devices the kubelet has assigned to which containers, from its pod-resources API, version 1: gRPC on
a socket of the node. This is the only file that imports grpc and protobuf (the extra ``kubernetes``)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from wattribute.errors import WattributeError

METHOD: Final = "/v1.PodResourcesLister/List"
_TIMEOUT_S: Final = 5.0
_ANSWER_MAX_BYTES: Final = 16 << 20
# Message -> field -> (number, type of message, or '' for a string); all but the names are lists. The library
# skips the other fields (CPUs, memory, topology), as it does unknown fields.
_MESSAGES: Final[dict[str, dict[str, tuple[int, str]]]] = {
    "ListPodResourcesRequest": {},
    "ListPodResourcesResponse": {"pod_resources": (1, "PodResources")},
    "PodResources": {"name": (1, ""), "namespace": (2, ""), "containers": (3, "ContainerResources")},
    "ContainerResources": {"name": (1, ""), "devices": (2, "ContainerDevices")},
    "ContainerDevices": {"resource_name": (1, ""), "device_ids": (2, "")},
}


class Given(NamedTuple):
    """The devices that a container has of one resource, such as ``nvidia.com/gpu``."""

    namespace: str
    pod: str
    container: str
    resource: str
    device_ids: tuple[str, ...]


def list_given(path: Path) -> list[Given]:
    """The devices that the kubelet behind the socket at ``path`` has assigned.

    Raises WattributeError: what is wrong, and after a semicolon what to do. It quotes nothing of the answer.
    """
    messages = message_classes()
    grpc = importlib.import_module("grpc")
    # The default authority is the path of the socket, which Go's servers refuse.
    options = [("grpc.default_authority", "localhost"), ("grpc.enable_http_proxy", 0)]
    options.append(("grpc.max_receive_message_length", _ANSWER_MAX_BYTES))
    with grpc.insecure_channel(f"unix://{path}", options=options) as channel:
        call: Callable[..., Any] = channel.unary_unary(
            METHOD,
            request_serializer=messages["ListPodResourcesRequest"].SerializeToString,
            response_deserializer=messages["ListPodResourcesResponse"].FromString,
        )
        try:
            answer = call(messages["ListPodResourcesRequest"](), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            advice = "let this user open it (mount its directory in a container), or set pod_resources to off"
            raise WattributeError(f"{path}: gRPC {error.code().name}; {advice}") from None
    return [
        Given(pod.namespace, pod.name, container.name, devices.resource_name, tuple(devices.device_ids))
        for pod in answer.pod_resources
        for container in pod.containers
        for devices in container.devices
    ]


@cache
def message_classes() -> dict[str, Any]:
    """The classes of the API's messages, by name. Raises WattributeError where the extra is not installed."""
    try:
        importlib.import_module("grpc")
        pb = importlib.import_module("google.protobuf.descriptor_pb2")
        pool = importlib.import_module("google.protobuf.descriptor_pool").DescriptorPool()
        get = importlib.import_module("google.protobuf.message_factory").GetMessageClass
    except ImportError:
        raise WattributeError(
            "grpcio and protobuf are not installed; run pip install 'wattribute[kubernetes]'"
        ) from None
    file = pb.FileDescriptorProto(name="podresources/v1.proto", package="v1", syntax="proto3")
    for message, fields in _MESSAGES.items():
        made = file.message_type.add(name=message)
        for name, (number, of) in fields.items():
            field = made.field.add(name=name, number=number)
            is_list = of or name == "device_ids"
            field.label = field.LABEL_REPEATED if is_list else field.LABEL_OPTIONAL
            field.type = field.TYPE_MESSAGE if of else field.TYPE_STRING
            if of:
                field.type_name = f".v1.{of}"
    pool.AddSerializedFile(file.SerializeToString())
    return {message: get(pool.FindMessageTypeByName(f"v1.{message}")) for message in _MESSAGES}
