"""The only YAML loader, and atomic replacement of files."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import re
import tempfile
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from completedp import reading
from completedp.errors import UserError, clipped, shown

try:  # seven times as fast; absent if PyYAML was built without libyaml
    from yaml import CSafeLoader as _SafeLoader
except ImportError:
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

# Bytes of a YAML file. A plan of 4096 layers has 12 MB and takes seven seconds to read.
LARGEST_YAML = 1 << 24
# Suffix of a file while it is written. `completedp doctor --repair` removes one that a kill left behind.
TEMPORARY = ".tmp"
# Characters quoted from a PyYAML message. The message can hold a key of any length.
MOST_OF_YAML = 400


class _Loader(_SafeLoader):
    """YAML 1.1 with three changes.

    `3e-4` is a number. A date, `010` (eight in YAML) and `1:30` (ninety) are text. A key that is given twice
    is an error.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        # PyYAML refuses a value that contains itself only if it builds depth first, which is not its default.
        return super().construct_object(node, deep=True)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            # A key that a merge key (`<<: *name`) brings may be given again: merging is meant for that.
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
    # The software's name would change the bytes with its version.
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    write_bytes(path, content.getvalue())


def write_text(path: Path, text: str) -> None:
    """Replace `path` atomically by text in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def check_place(path: Path) -> None:
    """Make the folder of `path`. Raises `UserError` if nothing can be written there.

    A measurement calls this first, so that it fails before its start and not at its end.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a file's name")


def write_bytes(path: Path, content: bytes) -> None:
    """Write to a temporary file beside `path`, fsync, and rename it to `path`.

    Raises `UserError` if this fails. The old content then stays.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY
        )
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` from within into a `UserError` that `path` cannot be written, and how to go on."""
    try:
        yield
    except OSError as error:
        mend = "make room, then go on" if is_full(error) else "give another place"
        raise UserError(f"{path}: cannot be written ({error.strerror}); {mend}") from None


def free_name(path: Path, word: str) -> Path:
    """The first of `<name>.<word>-1`, `-2`, … beside `path` that is not taken."""
    names = (path.with_name(f"{path.name}.{word}-{n}") for n in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def is_full(error: OSError) -> bool:
    """Whether the disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def digest(data: object) -> str:
    """sha256 of the canonical JSON of plain data, as `sha256:<hex>`."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
