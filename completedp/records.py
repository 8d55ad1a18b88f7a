"""Plain JSON as a dataclass, checked against the declared types of its fields.

This is for files that programs write and workers read, and needs only the standard library. YAML that people
write goes through `completedp.validation.validate`, which a worker cannot import.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from completedp.errors import UserError, nearest, shown
from completedp.reading import COUNT, NUMBER, OBJECT, TEXT, Field, as_object, check_fields, one_of

T = TypeVar("T")

_BY_TYPE: Mapping[Any, Field] = {
    int: COUNT,  # each of our whole numbers is a count or a seed
    float: NUMBER,
    str: TEXT,
    bool: Field(lambda value: isinstance(value, bool), "true or false"),
    tuple: Field(lambda value: isinstance(value, list | tuple), "a list"),
    Any: Field(lambda _: True, "anything"),
}


def build(kind: type[T], data: object, where: str, fields: Mapping[str, Field] | None = None) -> T:
    """`data` as a flat dataclass. Raises `UserError` as `check_record` and the class itself do."""
    return kind(**check_record(kind, data, where, fields))


def check_record(
    kind: Any, data: object, where: str, fields: Mapping[str, Field] | None = None
) -> dict[str, Any]:
    """`data` as a dict, if it has the fields of the dataclass `kind` with values of their types.

    Whole numbers become floats in float fields, as torch needs them. Rules in `fields` replace the rules of
    the types. Values inside a field's value are not checked. Raises `UserError` that begins with `where`.
    """
    record = as_object(data, where)
    declared, required, floats = _declared(kind)
    check_fields(record, {**declared, **fields} if fields else declared, required, where)
    for name in record.keys() - declared.keys():
        raise UserError(f"{where}: unknown key {shown(name)}{nearest(name, declared)}")
    whole = {name for name in floats if isinstance(record.get(name), int)}
    return {**record, **{name: float(record[name]) for name in whole}} if whole else record


@functools.cache
def _declared(kind: Any) -> tuple[dict[str, Field], tuple[str, ...], tuple[str, ...]]:
    """The rules for a dataclass's fields, the names of those without a default, and of float fields."""
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    missing = dataclasses.MISSING
    required = tuple(f.name for f in fields if f.default is f.default_factory is missing)
    floats = tuple(name for name, hint in hints.items() if hint in (float, float | None))
    return {f.name: _field(hints[f.name]) for f in fields}, required, floats


def _field(hint: Any) -> Field:
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Literal:
        return one_of(*arguments)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (_field(one) for one in arguments if one is not type(None))
        return Field(
            lambda value: value is None or inner.is_right(value), f"{inner.expected}, or null"
        )
    return _BY_TYPE.get(origin, OBJECT)
