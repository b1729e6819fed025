"""Messages of the device plugin API v1beta1, as the field numbers of k8s.io/kubelet `pkg/apis/deviceplugin/v1beta1/api.proto`
give them. Only what the plugin of tests reads or writes is declared."""

from typing import Any, Final, cast

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD: Final = descriptor_pb2.FieldDescriptorProto
_TEXT, _FLAG, _NUMBER = _FIELD.TYPE_STRING, _FIELD.TYPE_BOOL, _FIELD.TYPE_INT32

# message -> (field, number, type or name of a message, whether it is repeated)
_MESSAGES: Final[dict[str, tuple[tuple[str, int, int | str, bool], ...]]] = {
    "Empty": (),
    "DevicePluginOptions": (
        ("pre_start_required", 1, _FLAG, False),
        ("get_preferred_allocation_available", 2, _FLAG, False),
    ),
    "RegisterRequest": (
        ("version", 1, _TEXT, False),
        ("endpoint", 2, _TEXT, False),
        ("resource_name", 3, _TEXT, False),
        ("options", 4, "DevicePluginOptions", False),
    ),
    "Device": (("ID", 1, _TEXT, False), ("health", 2, _TEXT, False)),
    "ListAndWatchResponse": (("devices", 1, "Device", True),),
    "ContainerPreferredAllocationRequest": (
        ("available_deviceIDs", 1, _TEXT, True),
        ("must_include_deviceIDs", 2, _TEXT, True),
        ("allocation_size", 3, _NUMBER, False),
    ),
    "PreferredAllocationRequest": (("container_requests", 1, "ContainerPreferredAllocationRequest", True),),
    "ContainerPreferredAllocationResponse": (("deviceIDs", 1, _TEXT, True),),
    "PreferredAllocationResponse": (("container_responses", 1, "ContainerPreferredAllocationResponse", True),),
    "ContainerAllocateRequest": (("devices_ids", 1, _TEXT, True),),
    "AllocateRequest": (("container_requests", 1, "ContainerAllocateRequest", True),),
    "Pair": (("key", 1, _TEXT, False), ("value", 2, _TEXT, False)),  # an entry of map<string, string> on the wire
    "Mount": (("container_path", 1, _TEXT, False), ("host_path", 2, _TEXT, False), ("read_only", 3, _FLAG, False)),
    "ContainerAllocateResponse": (("envs", 1, "Pair", True), ("mounts", 2, "Mount", True)),
    "AllocateResponse": (("container_responses", 1, "ContainerAllocateResponse", True),),
}


def _message_types() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="stub_deviceplugin.proto", package="v1beta1", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            nested = isinstance(kind, str)
            message.field.add(
                name=field,
                number=number,
                label=_FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL,
                type=_FIELD.TYPE_MESSAGE if nested else cast(Any, kind),
                type_name=f".v1beta1.{kind}" if nested else None,
            )
    pool = descriptor_pool.DescriptorPool()  # of its own: other libraries may have registered the same names
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v1beta1.{name}")) for name in _MESSAGES}


MESSAGES: Final = _message_types()
