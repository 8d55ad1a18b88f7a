"""Text, JSON rows and parquet: what is read, and how anything else is refused."""

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from completedp.errors import UserError
from completedp.lm import formats
from completedp.lm.sources import open_source

TEXT = "some words, and more of them\n"


def documents(path: Path) -> list[bytes]:
    return list(open_source(str(path), 256).documents())


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("a.txt", TEXT)
    return content.getvalue()


FOREIGN = {
    "gzip": (gzip.compress(TEXT.encode()), r"is compressed \(gzip\); decompress it first"),
    "bzip2": (bz2.compress(TEXT.encode()), r"is compressed \(bzip2\)"),
    "xz": (lzma.compress(TEXT.encode()), r"is compressed \(xz\)"),
    "zip": (zipped(), r"is compressed \(zip\)"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x00", r"is compressed \(zstd\)"),
    "utf16": (TEXT.encode("utf-16"), "is UTF-16; convert it to UTF-8, as by iconv -f UTF-16 -t"),
    "utf16be": (b"\xfe\xff" + TEXT.encode("utf-16-be"), "is UTF-16; convert"),
    "utf32": (TEXT.encode("utf-32"), "is UTF-32; convert"),
    "pdf": (b"%PDF-1.7\n", "is a PDF; expected text"),
}


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".parquet", ".gz", ""])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_kind_is_refused_by_its_name(
    tmp_path: Path, name: str, ending: str
) -> None:
    content, message = FOREIGN[name]
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / f"a{ending}").write_bytes(content)
    with pytest.raises(UserError, match=message):
        documents(tmp_path / f"a{ending}")


def test_text_that_only_begins_like_another_kind_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("BZh9, PKA, 7z and others")
    assert documents(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.JSONL", "a.Json"])
def test_rows_are_read_whatever_the_ending(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"text": "one"}\n\n{"id": 2, "text": "two"}\n')
    assert b"".join(documents(tmp_path / name)) == b"onetwo"


@pytest.mark.parametrize(
    "other", ["7" * 5_000, "-" + "7" * 5_000, "NaN", "Infinity", "1e400", "[[[{}]]]", '"\\ud800"']
)
def test_only_the_text_of_a_row_matters(tmp_path: Path, other: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"id": {other}, "text": "one"}}\n')
    assert b"".join(documents(tmp_path / "a.jsonl")) == b"one"


def test_a_byte_order_mark_before_rows_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\n')
    assert b"".join(documents(tmp_path / "a.jsonl")) == b"one"


BAD_ROWS = {
    '{"text": "\\ud83d"}': r"a.jsonl, line 2: a lone surrogate \(U\+D83D\) at character 1",
    '{"text": "abc\\udc00"}': r"line 2: a lone surrogate \(U\+DC00\) at character 4 of its text",
    '{"text": "one", "x": %s}' % ("[" * 20_000 + "]" * 20_000): "line 2: nested too deeply",
    '{"text": %s}' % ("7" * 5_000): 'line 2: expected an object .*; its "text" is no string',
    '{"content": "a"}': r"line 2: expected an object .*; its keys are \['content'\]",
    '["a"]': "line 2: a list; write one object a line",
    '"a"': "line 2: expected an object .*; got 'a'",
    '{"text": "a"} x': r"line 2: expected an object .*; it is not JSON \(Extra data, character 15\)",
    "null": "line 2: expected an object .*; got None",
    '{"text": "a\\u0000"}': "line 2: holds NUL bytes at 1",
}


@pytest.mark.parametrize("row", BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_row_without_text_is_refused_with_its_line(tmp_path: Path, row: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n' + row + "\n")
    with pytest.raises(UserError, match=BAD_ROWS[row]):
        documents(tmp_path / "a.jsonl")


def test_bytes_that_are_not_utf8_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(UserError, match="line 2: not UTF-8 at byte 13"):
        documents(tmp_path / "a.jsonl")


@pytest.mark.parametrize("content", ['[{"text": "a"}]', '\n [\n{"text": "a"}\n]\n', '["a"]\n'])
def test_one_json_list_is_refused_with_the_mend(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match="write one object a line"):
        documents(tmp_path / "a.json")


def test_a_line_without_end_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "LONGEST_LINE", 100)
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "' + "a" * 1000 + '"}\n')
    with pytest.raises(UserError, match="line 2: longer than 100 bytes; make several rows"):
        documents(tmp_path / "a.jsonl")


def parquet(path: Path, column: Any, **options: Any) -> Path:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(
        arrow.table({"text": column}), path, **options
    )
    return path


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "category"])
def test_text_columns_of_parquet(tmp_path: Path, kind: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    words = [f"word {i % 5} é" for i in range(3_000)]
    column = arrow.array(words)
    column = column.dictionary_encode() if kind == "category" else column.cast(kind)
    path = parquet(tmp_path / "a.PARQUET", column, row_group_size=700)
    assert b"".join(documents(path)).decode() == "".join(words)


def test_a_column_of_another_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the column 'text' is int64; expected string or"):
        documents(parquet(tmp_path / "a.parquet", [1, 2]))
    with pytest.raises(UserError, match="the column 'text' is list<"):
        documents(parquet(tmp_path / "a.parquet", [["a"], ["b"]]))


def test_a_cell_that_is_no_text_is_refused_with_its_row(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match="row 2, column text: no text"):
        documents(parquet(tmp_path / "a.parquet", ["a", None]))
    cells = [b"abc"] * 700
    cells[300] = b"caf\xe9"
    ends = arrow.py_buffer(np.cumsum([0, *map(len, cells)]).astype("<i4").tobytes())
    content = arrow.py_buffer(b"".join(cells))
    column = arrow.StringArray.from_buffers(len(cells), ends, content)
    path = parquet(tmp_path / "a.parquet", column, row_group_size=200)
    with pytest.raises(UserError, match="row 301, column text: not UTF-8 at byte 3; read the col"):
        documents(path)


def damaged(content: bytes) -> Iterator[bytes]:
    random = np.random.default_rng(0)
    for i in range(200):
        changed = bytearray(content)
        # Half of them in the data, which alone is read late.
        start = int(random.integers(len(changed) // (1 + i % 2)))
        match i % 4:
            case 0:
                del changed[start:]
            case 1:
                changed[start : start + 40] = b"\xff" * 40
            case 2:
                changed[start] ^= 1 << int(random.integers(8))
            case _:
                changed[start : start + 9] = bytes(9)
        yield bytes(changed)


def test_a_damaged_parquet_file_is_one_error(tmp_path: Path) -> None:
    words = [f"word {i}" * 9 for i in range(900)]
    path = parquet(tmp_path / "a.parquet", words, row_group_size=300)
    refused = ""
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        try:
            documents(path)
        except UserError as error:
            refused += f"{error}\n"
    lines = refused.splitlines()
    assert all(line.startswith(str(path)) for line in lines)
    assert any("row group 2: damaged" in line for line in lines)
    assert any("not a readable parquet file" in line for line in lines)
