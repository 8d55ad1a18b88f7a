"""Reading text and JSON from the disk, within bounds, as values or as one error.

Everything that is read back (journals, curves, outcomes, jobs, configurations) comes through here, so the
bounds on size, depth and numbers are in one place. An error names the file, the line if there is one, what
was found and what was expected.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from completedp.errors import UserError, shown

# Bytes of a file that is read whole. Our largest is a plan of 4096 layers, 12 MB.
LARGEST_FILE = 1 << 26
# Bytes of a line in a journal or a curve. Our longest holds a study's configuration, 4 kB.
LONGEST_LINE = 1 << 24
# Levels of mappings and lists. Our own files have at most 6, Hugging Face's configurations fewer than 10.
DEEPEST = 60
# Values of a document. A plan of 4096 layers has 640,000.
MOST_PARTS = 1_000_000
# Digits of a whole number. No float holds more.
MOST_DIGITS = 309
# The largest count. A database holds no larger whole number.
LARGEST_COUNT = 2**63 - 1
# 30 years. Today's date minus a run's time must still be a date.
LONGEST_SECONDS = 1e9


def read_bytes(path: Path, most: int = LARGEST_FILE) -> bytes:
    """The content of a file. Raises `UserError` if it is missing, unreadable or larger than `most` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from None
    if len(content) > most:
        raise UserError(f"{path}: larger than {most:,} bytes; no file of this kind is")
    return content


def decoded(content: bytes, where: str) -> str:
    """UTF-8 as text. Raises `UserError` with the first byte that is not UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 at byte {error.start}; expected text in UTF-8"
        ) from None


def read_text(path: Path, most: int = LARGEST_FILE) -> str:
    """The text of a file in UTF-8. Raises `UserError` as `read_bytes` and `decoded` do."""
    return decoded(read_bytes(path, most), str(path))


def read_json(path: Path) -> Any:
    """The JSON document in a file. Raises `UserError` as `read_text` and `parsed` do."""
    return parsed(read_text(path), str(path))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `UserError` for any other document too."""
    return as_object(read_json(path), str(path))


def read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The JSON document of every complete line, each after its place, as `<path>, line 3`.

    A last line without its newline was torn by a kill and is left out. Raises `UserError` for a line that is
    not JSON, such as a blank one.
    """
    for number, line in enumerate(read_bytes(path).split(b"\n")[:-1], 1):
        where = f"{path}, line {number}"
        yield where, parsed(decoded(line, where), where)


def parsed(text: str, where: str, *, quick: bool = False) -> Any:
    """A JSON document with only finite numbers within a float's range.

    `quick` takes half the time and leaves large numbers unchecked, for a caller that checks every field.
    Raises `UserError` that begins with `where` for text that is not JSON, a number out of range, or more than
    `DEEPEST` levels.
    """
    try:
        data = (_QUICK if quick else _CAREFUL).decode(text)
        if text.count("[") + text.count("{") > DEEPEST:
            check_bounds(data)
    except RecursionError:
        raise UserError(f"{where}: more than {DEEPEST} levels deep") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    return data


def as_object(data: Any, where: str) -> dict[str, Any]:
    """`data` itself. Raises `UserError` if it is not a JSON object."""
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected an object, got {shown(data)}")
    return data


def check_bounds(data: object) -> None:
    """Raises `UserError` for more than `DEEPEST` levels of mappings and lists, or `MOST_PARTS` values.

    A part that appears in several places, as by an alias of YAML, counts in each of them.
    """
    known: dict[int, tuple[int, int]] = {}

    def measured(value: object, level: int) -> tuple[int, int]:
        """The levels of a value and the number of values in it."""
        if not isinstance(value, dict | list):
            return 0, 1
        if level > DEEPEST:
            raise UserError(f"more than {DEEPEST} levels deep")
        if id(value) not in known:
            inner = value.values() if isinstance(value, dict) else value
            below = [measured(part, level + 1) for part in inner]
            levels = 1 + max((n for n, _ in below), default=0)
            known[id(value)] = levels, 1 + sum(parts for _, parts in below)
        return known[id(value)]

    levels, parts = measured(data, 1)
    if levels > DEEPEST:
        raise UserError(f"more than {DEEPEST} levels deep")
    if parts > MOST_PARTS:
        raise UserError(f"{parts:,} values; expected at most {MOST_PARTS:,}")


def is_number(value: object) -> bool:
    """Whether a value is a finite number that a float can hold. True and false are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max if isinstance(value, int) else math.isfinite(value)


def is_count(value: object) -> bool:
    """Whether a value is a whole number from 0 to `LARGEST_COUNT`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT


@dataclass(frozen=True)
class Field:
    """The rule for a field of a JSON object: the test, and the words for it in a message."""

    is_right: Callable[[Any], bool]
    expected: str


COUNT = Field(is_count, "a whole number of 0 or more, below 2^63")
NUMBER = Field(is_number, "a finite number")
NUMBER_OR_NULL = Field(lambda value: value is None or is_number(value), "a finite number or null")
SECONDS = Field(
    lambda value: is_number(value) and 0 <= value <= LONGEST_SECONDS,
    f"seconds, 0 or more, at most {LONGEST_SECONDS:g}",
)
TEXT = Field(lambda value: isinstance(value, str), "text")
TEXT_OR_NULL = Field(lambda value: value is None or isinstance(value, str), "text or null")
OBJECT = Field(lambda value: isinstance(value, dict), "an object")
NUMBERS = Field(
    lambda value: isinstance(value, dict) and all(map(is_number, value.values())),
    "an object of finite numbers",
)


def one_of(*values: str) -> Field:
    """A field that holds one of these texts."""
    # Compared one by one, because a list cannot be hashed.
    return Field(lambda value: any(value == one for one in values), " or ".join(map(repr, values)))


def check_fields(
    data: Mapping[str, Any], fields: Mapping[str, Field], required: Collection[str], where: str
) -> None:
    """Raises `UserError` for a missing required field, and for a known field with a wrong value.

    Fields that are not in the table are not checked.
    """
    for name in required:
        if name not in data:
            raise UserError(f"{where}: {name} is missing; expected {fields[name].expected}")
    for name, value in data.items():
        field = fields.get(name)
        if field is not None and not field.is_right(value):
            raise UserError(f"{where}: {name} is {shown(value)}; expected {field.expected}")


def _refused(name: str) -> float:
    raise UserError(f"{name} is no number; expected a finite one")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise UserError(f"the number {shown(text)} is beyond every float; expected a finite one")
    return value


def _bounded_int(text: str) -> int:
    if len(text) > MOST_DIGITS + text.startswith("-"):
        raise UserError(f"a whole number of {len(text)} digits; expected at most {MOST_DIGITS}")
    return int(text)


# Made once, because making a decoder takes as long as reading a line.
_CAREFUL = json.JSONDecoder(
    parse_constant=_refused, parse_float=_finite_float, parse_int=_bounded_int
)
_QUICK = json.JSONDecoder(parse_constant=_refused)
