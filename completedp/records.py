"""Plain JSON as one of our dataclasses, checked by the types that its fields are declared with.

For what programs write and workers read, with the standard library alone. What people write as YAML goes
through `completedp.validation.validate`, which a worker does not have.
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
    int: COUNT,  # every whole number of ours counts something, or is a seed
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
    """`data`, an object with the fields of the dataclass `kind`, each of its type; a whole number for a float
    is made one, as torch wants it.

    `fields` says more of some than their types do. What a field holds in its turn is not looked at. Raises
    `UserError` that begins with `where`.
    """
    record = as_object(data, where)
    declared, required = _declared(kind)
    check_fields(record, {**declared, **fields} if fields else declared, required, where)
    for name in record.keys() - declared.keys():
        raise UserError(f"{where}: unknown key {shown(name)}{nearest(name, declared)}")
    whole = {name for name in _floats(kind) if isinstance(record.get(name), int)}
    return {**record, **{name: float(record[name]) for name in whole}} if whole else record


@functools.cache
def _declared(kind: Any) -> tuple[dict[str, Field], tuple[str, ...]]:
    """The fields of a dataclass, and the names of those without a default."""
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    missing = dataclasses.MISSING
    required = (f.name for f in fields if f.default is f.default_factory is missing)
    return {f.name: _field(hints[f.name]) for f in fields}, tuple(required)


@functools.cache
def _floats(kind: Any) -> frozenset[str]:
    """The names of the fields that hold a float, or None."""
    hints = typing.get_type_hints(kind)
    return frozenset(name for name, hint in hints.items() if hint in (float, float | None))


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
