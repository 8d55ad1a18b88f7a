"""Files of ours: the one YAML loader, validation with the offending path, and atomic replacement."""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import itertools
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from completedp import reading
from completedp.errors import FieldError, UserError, clipped, nearest, shown

try:  # seven times as fast; absent if PyYAML was built without libyaml
    from yaml import CSafeLoader as _SafeLoader
except ImportError:
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

T = TypeVar("T")

# Bytes of a YAML file. A plan of 4096 layers has 12 MB and takes seven seconds to read.
LARGEST_YAML = 1 << 24
# Suffix of a file while it is written. `completedp doctor --repair` removes one that a kill left behind.
TEMPORARY = ".tmp"
# Characters that are quoted of a message of PyYAML, which can hold a key of any length.
MOST_OF_YAML = 400
# Characters of an offending key's path.
LONGEST_PATH = 200
# Offending keys that one message names.
MOST_NAMED = 8


class _Loader(_SafeLoader):
    """YAML 1.1 with three changes. `3e-4` is a number. A date, `010` (eight in YAML) and `1:30` (ninety) are
    text. A key that is given twice is an error."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        # PyYAML refuses a value that contains itself only if it builds depth first, which is not its default.
        return super().construct_object(node, deep=True)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            # The keys that a merge key (`<<: *name`) brings may be given again: that is its purpose.
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise UserError(f"line {line}: a key is {shown(key)}; expected plain text")
            if key in seen:
                raise UserError(f"line {line}: the key {shown(key)} is given twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` or another YAML reader would take for a number."""


_NUMBERS = {
    "int": r"[-+]?(0|[1-9][\d_]*|0x[\da-fA-F_]+)",
    "float": r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*([eE][-+]?\d+)?)"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


def _resolvers(without: tuple[str, ...]) -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    return {
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(without)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.yaml_implicit_resolvers = _resolvers((":timestamp", ":int", ":float"))
_Dumper.yaml_implicit_resolvers = _resolvers((":timestamp",))
for _name, _pattern in _NUMBERS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})$"), list("-+0123456789.")
        )


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `UserError` that names the file, and the line if one is at fault."""
    text = reading.read_text(path, LARGEST_YAML)
    try:
        data = yaml.load(text, Loader=_Loader)
        reading.check_bounds(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        text = clipped(" ".join(str(error).split()), MOST_OF_YAML)
        raise UserError(f"{path}: not valid YAML: {text}") from None
    except RecursionError:
        raise UserError(f"{path}: not valid YAML: nested too deeply") from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        # PyYAML passes these on if a value does not fit its tag or its first characters.
        text = clipped(str(error), MOST_OF_YAML)
        raise UserError(f"{path}: not valid YAML: a value cannot be read ({text})") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping at the top, got {type(data).__name__}")
    return data


def write_yaml(path: Path, data: Mapping[str, Any]) -> None:
    """Replace `path` atomically. Keys keep their order, so identical data gives identical bytes."""
    text = yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    write_text(path, text)


def write_json(path: Path, data: object) -> None:
    """Replace `path` atomically. Raises `ValueError` for a number that is not finite."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def write_figure(path: Path, figure: Any, dpi: int = 130) -> None:
    """Replace `path` atomically by a matplotlib figure as PNG. Equal figures give equal bytes."""
    content = io.BytesIO()
    # Without the name of the software, which changes with its version.
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    write_bytes(path, content.getvalue())


def write_text(path: Path, text: str) -> None:
    """Replace `path` atomically by text, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def check_place(path: Path) -> None:
    """Make the folder of `path`. Raises `UserError` if nothing can be written there, so that a measurement
    fails before its start and not at its end."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _unwritable(path, error) from None
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a file's name")


def write_bytes(path: Path, content: bytes) -> None:
    """Write to a temporary file beside `path`, fsync, and rename it to `path`.

    Raises `UserError` if that fails. The old content then stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY
        )
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` from within into a `UserError`: `path` cannot be written, and how to go on."""
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from None


def free_name(path: Path, word: str) -> Path:
    """The first of `<name>.<word>-1`, `-2`, … beside `path` that is not taken."""
    names = (path.with_name(f"{path.name}.{word}-{n}") for n in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def is_full(error: OSError) -> bool:
    """Whether the disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _unwritable(path: Path, error: OSError) -> UserError:
    mend = "make room, then go on" if is_full(error) else "give another place"
    return UserError(f"{path}: cannot be written ({error.strerror}); {mend}")


def digest(data: object) -> str:
    """sha256 of the canonical JSON of plain data, as `sha256:<hex>`."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def validate(kind: type[T], data: object, where: str) -> T:
    """Plain data as the dataclass `kind`. Raises `UserError` with the path of every offending key."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    for path, value in _beyond_floats(data, ()):
        raise UserError(f"{where}: {'.'.join(path)} is {value}; expected a finite number")
    _forbid_extra_keys(kind, ConfigDict(extra="forbid", strict=True))
    try:
        # JSON mode: strict about types, yet a list is a tuple.
        return TypeAdapter(kind).validate_json(json.dumps(data))
    except (TypeError, RecursionError) as error:
        raise UserError(f"{where}: {error}") from None
    except ValidationError as error:
        meant = [e for e in error.errors() if _is_meant(kind, data, e["loc"])]
        said = [_sentence(kind, e, where) for e in meant[:MOST_NAMED]]
        if (more := len(meant) - MOST_NAMED) > 0:
            said.append(f"{where}: and {more} more")
        raise UserError("\n".join(said)) from None


def _beyond_floats(data: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every NaN, infinity and whole number that no float holds in plain data, with its path and name."""
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
    import dataclasses
    import typing

    if not dataclasses.is_dataclass(kind) or "__pydantic_config__" in vars(kind):
        return
    setattr(kind, "__pydantic_config__", config)  # noqa: B010  (mypy knows no such attribute)
    for annotation in typing.get_type_hints(kind).values():
        for inner in (annotation, *typing.get_args(annotation)):
            _forbid_extra_keys(inner, config)


def _is_meant(kind: Any, data: object, location: tuple[int | str, ...]) -> bool:
    """Of a union of dataclasses pydantic reports every member's errors, its name in their path; meant is the
    one whose fields the data shares most of."""
    for i, part in enumerate(location[:-1]):
        kind = _type_at(kind, part)
        data = data.get(part) if isinstance(data, Mapping) else None
        members = _members(kind)
        if members:
            keys = set(data) if isinstance(data, Mapping) else set()
            chosen = max(members, key=lambda m: len(keys & set(_field_names(m))))
            return bool(chosen.__name__ == location[i + 1])
    return True


def _sentence(kind: Any, error: Mapping[str, Any], where: str) -> str:
    location = _plain(kind, error["loc"])
    path = clipped(".".join(location), LONGEST_PATH)
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden", "dataclass_exact_type"):
        return (
            f"{where}: {path}: unknown key{nearest(location[-1], _fields_at(kind, location[:-1]))}"
        )
    if error["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{where}: {path} is missing; add it"
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        return f"{where}: {path}.{cause}"
    if cause is not None:
        return f"{where}: {cause}"
    given = error["input"]
    whole = isinstance(given, float) and given.is_integer() and error["type"] == "int_type"
    mend = f", as {int(given)}" if whole else ""
    return f"{where}: {path} is {shown(given)}; {error['msg'].lower()}{mend}"


def _plain(kind: Any, location: tuple[int | str, ...]) -> list[str]:
    """The path without the names of a union's members."""
    plain = []
    for part in location:
        if any(m.__name__ == part for m in _members(kind)):
            kind = next(m for m in _members(kind) if m.__name__ == part)
        else:
            plain.append(str(part))
            kind = _type_at(kind, part)
    return plain


def _fields_at(kind: Any, location: list[str]) -> list[str]:
    for part in location:
        kind = _type_at(kind, part)
    return [name for k in _members(kind) or [kind] for name in _field_names(k)]


def _type_at(kind: Any, part: int | str) -> Any:
    """What a dataclass's field is declared as."""
    return _hints(kind).get(str(part), object)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The declared types of a dataclass's fields. Kept: a long list of wrong rows asks for each of them."""
    import dataclasses
    import typing

    return typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}


@functools.cache
def _members(kind: Any) -> list[Any]:
    """The dataclasses of a union of several."""
    import dataclasses
    import types
    import typing

    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return []
    members = [m for m in typing.get_args(kind) if dataclasses.is_dataclass(m)]
    return members if len(members) > 1 else []


def _field_names(kind: Any) -> list[str]:
    import dataclasses

    return [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
