"""Check a file's plain data and build one of our dataclasses from it, by pydantic."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from completedp.errors import FieldError, UserError, clipped, nearest, shown

T = TypeVar("T")
Location = tuple[int | str, ...]

# Characters shown of a wrong key's path.
LONGEST_PATH = 200
# Wrong keys that one message names.
MOST_NAMED = 8
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden", "dataclass_exact_type")
_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")


def validate(kind: type[T], data: object, where: str) -> T:
    """Plain data as the dataclass `kind`. Raises `UserError` with the path of each wrong key."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    for path, value in _beyond_floats(data, ()):
        raise UserError(f"{where}: {'.'.join(path)} is {value}; expected a finite number")
    _forbid_extra_keys(kind, ConfigDict(extra="forbid", strict=True))
    try:
        # JSON mode is strict about types, but takes a list for a tuple.
        return TypeAdapter(kind).validate_json(json.dumps(data))
    except (TypeError, RecursionError) as error:
        raise UserError(f"{where}: {error}") from None
    except ValidationError as error:
        faults = error.errors()
        sentences = [_sentence(kind, fault, where) for fault in faults[:MOST_NAMED]]
        if (more := len(faults) - MOST_NAMED) > 0:
            sentences.append(f"{where}: and {more} more")
        raise UserError("\n".join(sentences)) from None


def _beyond_floats(data: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """The path and a name of each NaN, infinity and whole number that no float can hold."""
    if isinstance(data, float) and not math.isfinite(data):
        yield path, str(data)
    if isinstance(data, int) and abs(data) > sys.float_info.max:
        yield path, f"a whole number of {data.bit_length()} bits"
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _beyond_floats(value, (*path, str(key)))
    elif isinstance(data, list | tuple):
        for i, value in enumerate(data):
            yield from _beyond_floats(value, (*path, str(i)))


def _forbid_extra_keys(kind: Any, config: Any) -> None:
    """Set pydantic's configuration on the plain dataclasses reached from `kind`."""
    if not dataclasses.is_dataclass(kind) or "__pydantic_config__" in vars(kind):
        return
    setattr(kind, "__pydantic_config__", config)  # noqa: B010  (mypy knows no such attribute)
    for annotation in typing.get_type_hints(kind).values():
        for inner in (annotation, *typing.get_args(annotation)):
            _forbid_extra_keys(inner, config)


def _sentence(kind: Any, fault: Mapping[str, Any], where: str) -> str:
    keys, owner = _resolved(kind, fault["loc"])
    path = clipped(".".join(keys), LONGEST_PATH)
    given = fault["input"]
    if fault["type"] in _UNKNOWN:
        return f"{where}: {path}: unknown key{nearest(keys[-1], _hints(owner))}"
    if fault["type"] in _MISSING:
        return f"{where}: {path} is missing; add it"
    if fault["type"] == "union_tag_invalid":
        expected = fault["ctx"]["expected_tags"].replace("'", "").replace(", ", " or ")
        return f"{where}: {path}.kind is {shown(given.get('kind'))}; expected {expected}"
    if fault["type"] == "union_tag_not_found":
        return f"{where}: {path} is {shown(given)}; expected a mapping"
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        return f"{where}: {path}.{cause}"
    if cause is not None:
        return f"{where}: {cause}"
    whole = isinstance(given, float) and given.is_integer() and fault["type"] == "int_type"
    mend = f", as {int(given)}" if whole else ""
    return f"{where}: {path} is {shown(given)}; {fault['msg'].lower()}{mend}"


def _resolved(kind: Any, location: Location) -> tuple[list[str], Any]:
    """The keys of a path without the tags of unions, and the dataclass that should have the last key."""
    keys: list[str] = []
    owner = kind
    for part in location:
        members = {member.kind: member for member in _members(kind)}
        if part in members:
            kind = members[str(part)]
        else:
            keys.append(str(part))
            owner, kind = kind, _hints(kind).get(str(part), object)
    return keys, owner


@functools.cache
def _hints(kind: Any) -> Mapping[str, Any]:
    """The declared types of a dataclass's fields. Cached, because every wrong row of a long list asks."""
    return typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}


def _members(kind: Any) -> list[Any]:
    """The dataclasses of a union whose members differ in `kind`."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return []
    return [m for m in typing.get_args(kind) if "kind" in _hints(m)]
