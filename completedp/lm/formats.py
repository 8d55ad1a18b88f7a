"""Text from files: one reader per format. An error names the place and how to fix it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from completedp.config import Format
from completedp.errors import UserError, first_line, needs, shown
from completedp.reading import LONGEST_LINE, decoded

_UTF8_MARK = b"\xef\xbb\xbf"
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
    b"PK\x03\x04": "zip",
    **{b"BZh%d1AY&SY" % level: "bzip2" for level in range(1, 10)},
}
# UTF-32 first: its mark begins with the mark of UTF-16.
_ENCODED = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_LONGEST_MARK = 16
# A mark of this many bytes begins a file of numbers by chance at most once in 2^32 files.
_LEAST_MARK = 4

_EXPECTED = 'expected an object with a string under "text"'
# Numbers beside the text may have any size. Python refuses to read a very long int, but not a long float.
_decode = json.JSONDecoder(parse_int=float).decode

# Types of a parquet column that hold text.
_TEXT_TYPES = ("string", "large_string", "string_view")
# Rows of a parquet file that are in memory at once, and bytes of a column chunk that are read at once.
_BATCH_ROWS = 1024
_BUFFER_BYTES = 1 << 20


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn an `OSError` from within into a `UserError`: `path` cannot be read, and why."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def check_beginning(beginning: bytes, path: Path, *, numbers: bool = False) -> None:
    """Raises `UserError` if a file begins like a compressed file, a PDF, or text in another encoding.

    In a file of `numbers`, marks that numbers may have by chance are ignored.
    """
    for mark, name in _COMPRESSED.items():
        if beginning.startswith(mark) and not (numbers and len(mark) < _LEAST_MARK):
            raise UserError(f"{path}: is compressed ({name}); decompress it first")
    if numbers:
        return
    for mark, name in _ENCODED.items():
        if beginning.startswith(mark):
            raise UserError(
                f"{path}: is {name}; convert it to UTF-8, as by iconv -f {name} -t UTF-8"
            )
    if beginning.startswith(b"%PDF-"):
        raise UserError(f"{path}: is a PDF; expected text: extract it first")


def row_text(row: object, where: str) -> bytes:
    """The text of a row, in UTF-8. Raises `UserError` for a row without text."""
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: {_EXPECTED}; got {shown(row)}")
    if not isinstance(text := row.get("text"), str):
        found = 'its "text" is no string' if "text" in row else f"its keys are {shown(list(row))}"
        raise UserError(f"{where}: {_EXPECTED}; {found}")
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start + 1} of "
            "its text, half of a character that UTF-8 cannot hold; remove it, or write the whole character"
        ) from None
    _check_no_nul(content, where)
    return content


def _plain(path: Path) -> Iterator[bytes]:
    with readable(path):
        content = path.read_bytes()
    check_beginning(content, path)
    _check_no_nul(content, str(path))
    decoded(content, str(path))
    yield content


def _rows(path: Path) -> Iterator[bytes]:
    with readable(path), path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
            where = f"{path}, line {number}"
            if len(line) > LONGEST_LINE:
                raise UserError(
                    f"{where}: longer than {LONGEST_LINE:,} bytes; make several rows of it"
                )
            if number == 1:
                check_beginning(line, path)
                line = line.removeprefix(_UTF8_MARK)
            if line.strip():
                yield row_text(_row(line, where), where)


def _row(line: bytes, where: str) -> object:
    text = decoded(line, where)
    try:
        row: object = _decode(text)
    except RecursionError:
        raise UserError(f"{where}: nested too deeply; leave out what is not text") from None
    except json.JSONDecodeError as error:
        if not text.lstrip().startswith("["):
            raise UserError(
                f"{where}: {_EXPECTED}; it is not JSON ({error.msg}, character {error.pos + 1})"
            ) from None
        row = []  # the first line of a list
    if isinstance(row, list):
        raise UserError(f"{where}: a list; write one object a line instead, as by jq -c '.[]'")
    return row


def _parquet(path: Path) -> Iterator[bytes]:
    with needs("pyarrow", f"{path}: reading parquet"):
        import pyarrow.parquet
    with readable(path), path.open("rb") as start:
        check_beginning(start.read(_LONGEST_MARK), path)
    # On a damaged file pyarrow may raise nearly anything, even MemoryError and UnicodeDecodeError.
    try:
        file = pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES)
        groups: int = file.num_row_groups
        types = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
    except Exception as error:
        raise UserError(f"{path}: not a readable parquet file ({first_line(error)})") from None
    with file:
        if "text" not in types:
            raise UserError(f"{path}: no column 'text'; it has {shown(list(types))}")
        kind = types["text"]
        if pyarrow.types.is_dictionary(kind):  # the file stores each value once
            kind = kind.value_type
        if str(kind) not in _TEXT_TYPES:
            raise UserError(
                f"{path}: the column 'text' is {kind}; expected {' or '.join(_TEXT_TYPES)}"
            )
        texts = (text for group in range(groups) for text in _cells(file, group, path))
        for number, text in enumerate(texts, 1):
            yield _cell(text, f"{path}, row {number}, column text")


def _cells(file: Any, group: int, path: Path) -> Iterator[bytes | None]:
    """The stored texts of a row group, which need not be UTF-8."""
    import pyarrow

    batches = file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=["text"])
    while True:
        try:
            column = next(batches).column(0)
            if pyarrow.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            texts: list[bytes | None] = column.cast(pyarrow.large_binary()).to_pylist()
        except StopIteration:
            return
        except Exception as error:
            raise UserError(
                f"{path}, row group {group + 1}: damaged ({first_line(error)}); write the file again"
            ) from None
        yield from texts


def _cell(text: bytes | None, where: str) -> bytes:
    if text is None:
        raise UserError(f"{where}: no text; expected a string: leave the row out")
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 at byte {error.start}; read the column as binary, decode it with its "
            "encoding, and write it again"
        ) from None
    _check_no_nul(text, where)
    return text


def _check_no_nul(content: bytes, where: str) -> None:
    if b"\0" in content:
        raise UserError(f"{where}: holds NUL bytes at {content.index(0)}; expected text in UTF-8")


READERS: Mapping[Format, Callable[[Path], Iterator[bytes]]] = {
    "text": _plain,
    "rows": _rows,
    "parquet": _parquet,
}
