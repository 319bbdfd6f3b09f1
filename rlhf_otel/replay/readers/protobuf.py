"""Messages of other programs, declared by field numbers: protobuf without their generated code.

Only the fields that are read need declaring; protobuf skips the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

DOUBLE: Final = descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE
FLOAT: Final = descriptor_pb2.FieldDescriptorProto.TYPE_FLOAT
INT64: Final = descriptor_pb2.FieldDescriptorProto.TYPE_INT64
INT32: Final = descriptor_pb2.FieldDescriptorProto.TYPE_INT32
SINT64: Final = descriptor_pb2.FieldDescriptorProto.TYPE_SINT64
BOOL: Final = descriptor_pb2.FieldDescriptorProto.TYPE_BOOL
STRING: Final = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
BYTES: Final = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES

Fields = Mapping[int, tuple[str, int | str]]
"""Field number to name and type; a type that is text names another message, ``*`` in front of a name means
repeated."""


def messages(package: str, declared: Mapping[str, Fields]) -> dict[str, Any]:
    """A class for each declared message."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in declared.items():
        message = file.message_type.add(name=name)
        for number, (label, kind) in fields.items():
            _add_field(
                message, package, number, label, kind, optional=isinstance(kind, int) and label[0] != "*"
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in declared
    }


def _add_field(message: Any, package: str, number: int, label: str, kind: int | str, optional: bool) -> None:
    field = message.field.add(name=label.lstrip("*"), number=number)
    field.label = field.LABEL_REPEATED if label[0] == "*" else field.LABEL_OPTIONAL
    if isinstance(kind, str):
        field.type, field.type_name = field.TYPE_MESSAGE, f".{package}.{kind}"
    else:
        field.type = kind
    if optional:  # so that HasField tells 0 from absent
        field.proto3_optional = True
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{label}")
