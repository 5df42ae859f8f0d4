"""Check requests against botocore's own model of SSM, and shape answers by it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, TypeAlias

from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StructureShape

from poormanray.local.refusals import Refusal

# What json.loads gives; the model says the rest.
Json: TypeAlias = Any

_NUMBERS = {"integer", "long", "float", "double"}


@functools.cache
def ssm_model() -> ServiceModel:
    """Return botocore's model of SSM."""
    return ServiceModel(Loader().load_service_model("ssm", "service-2"), "ssm")


def check_request(operation: str, request: Mapping[str, Any]) -> None:
    """Refuse a request that the model does not allow: types, limits, enumerations, patterns.

    Raises:
        Refusal: ValidationException (constraints) or SerializationException (types).
    """
    shape = ssm_model().operation_model(operation).input_shape
    if shape is None:
        return
    problems = list(_problems(shape, request, ""))
    if problems:
        count = len(problems)
        noun = "error" if count == 1 else "errors"
        raise Refusal(
            "ValidationException", f"{count} validation {noun} detected: {'; '.join(problems)}"
        )


def shape_answer(operation: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of `answer` the model's output has; members that are None are left out."""
    shape = ssm_model().operation_model(operation).output_shape
    return {} if shape is None else _shaped(shape, answer)


def _shaped(shape: Shape, value: Json) -> Json:
    if isinstance(shape, StructureShape):
        return {
            name: _shaped(member, value[name])
            for name, member in shape.members.items()
            if value.get(name) is not None
        }
    if isinstance(shape, ListShape):
        return [_shaped(shape.member, item) for item in value]
    if isinstance(shape, MapShape):
        return {str(key): _shaped(shape.value, item) for key, item in value.items()}
    return value


def _problems(shape: Shape, value: Json, path: str) -> Iterator[str]:
    if isinstance(shape, StructureShape):
        yield from _structure_problems(shape, value, path)
    elif isinstance(shape, ListShape):
        _expect(value, list, path)
        yield from _size_problems(shape, len(value), value, path)
        for index, item in enumerate(value):
            yield from _problems(shape.member, item, f"{path}.{index + 1}.member")
    elif isinstance(shape, MapShape):
        _expect(value, dict, path)
        yield from _size_problems(shape, len(value), value, path)
        for key, item in value.items():
            yield from _problems(shape.key, key, f"{path}.key")
            yield from _problems(shape.value, item, f"{path}.{key}")
    elif shape.type_name == "string":
        yield from _text_problems(shape, value, path)
    elif shape.type_name in _NUMBERS:
        _expect(value, (int, float, Decimal), path)
        yield from _range_problems(shape, value, path)
    elif shape.type_name == "boolean":
        _expect(value, bool, path)


def _structure_problems(shape: StructureShape, value: Json, path: str) -> Iterator[str]:
    _expect(value, dict, path)
    for name in shape.required_members:
        if value.get(name) is None:
            yield f"Value null at '{_member(path, name)}' failed to satisfy constraint: " + (
                "Member must not be null"
            )
    for name, member in shape.members.items():
        if value.get(name) is not None:
            yield from _problems(member, value[name], _member(path, name))


def _text_problems(shape: Shape, value: Json, path: str) -> Iterator[str]:
    _expect(value, str, path)
    yield from _size_problems(shape, len(value), value, path)
    allowed = getattr(shape, "enum", None)
    if allowed and value not in allowed:
        rule = f"Member must satisfy enum value set: [{', '.join(allowed)}]"
        yield _failed(value, path, rule)
    pattern = shape.metadata.get("pattern")
    rule_of = _compiled(pattern) if pattern else None
    if rule_of is not None and not rule_of.search(value):
        yield _failed(value, path, f"Member must satisfy regular expression pattern: {pattern}")


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """Return the pattern, None where it is written as only Java understands it."""
    try:
        return re.compile(pattern)
    except re.error:
        return None


def _size_problems(shape: Shape, size: int, value: Json, path: str) -> Iterator[str]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and size < least:
        rule = f"Member must have length greater than or equal to {least}"
        yield _failed(value, path, rule)
    if most is not None and size > most:
        yield _failed(value, path, f"Member must have length less than or equal to {most}")


def _range_problems(shape: Shape, value: Json, path: str) -> Iterator[str]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and value < least:
        yield _failed(value, path, f"Member must have value greater than or equal to {least}")
    if most is not None and value > most:
        yield _failed(value, path, f"Member must have value less than or equal to {most}")


def _failed(value: Json, path: str, rule: str) -> str:
    return f"Value '{value}' at '{path}' failed to satisfy constraint: {rule}"


def _member(path: str, name: str) -> str:
    plain = name[:1].lower() + name[1:]
    return f"{path}.{plain}" if path else plain


def _expect(value: Json, kind: type | tuple[type, ...], path: str) -> None:
    wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
    if wrong:
        raise Refusal("SerializationException", f"'{path}' has the wrong type")
