"""Where text comes from: each source is an identity (for the cache) and an iterator of documents."""

from __future__ import annotations

import hashlib
import json
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from completedp.errors import UserError, needs

# Long texts are cut into blocks, so that three splits can be made of a single file: at most 64 kB, long
# against any context, and at most a 200th of the corpus, so that a 5 % split is several of them.
BLOCK_BYTES = 1 << 16
LEAST_BLOCKS = 200

_TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py", ".text")
_EMBEDDED_SKIP = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """`documents()` may be called again and gives the same non-empty documents in the same order.

    A document is UTF-8 text, or little-endian uint16 tokens (`is_tokens`). `identity` changes when the
    source does, as far as that can be told without reading it.
    """

    name: str
    identity: str
    documents: Callable[[], Iterator[bytes]]


def is_tokens(source: str) -> bool:
    """Whether the source holds tokens already, as nanoGPT's files do."""
    return Path(source).suffix == ".bin" and not source.startswith("hf:")


def open_source(source: str) -> Source:
    """The source a `DataConfig` names. Raises `UserError` when it is not there or not readable."""
    if source == "embedded":
        root = Path(sysconfig.get_path("stdlib"))
        paths = [p for p in sorted(root.rglob("*.py")) if _is_embedded(p.relative_to(root))]
        return Source(
            name=source,
            identity=_identity([source, sys.version], paths),
            documents=lambda: _texts(paths),
        )
    if source.startswith("hf:"):
        return _hugging_face(source.removeprefix("hf:"))
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(
            f"data source {source!r}: no such file or folder; expected 'embedded', 'hf:<name>', or a path "
            "to text, .jsonl, .parquet or .bin"
        )
    paths = _files(path)
    if is_tokens(source):
        return Source(
            name=source,
            identity=_identity([], paths),
            documents=lambda: _token_blocks(paths),
        )
    return Source(name=source, identity=_identity([], paths), documents=lambda: _texts(paths))


def _is_embedded(relative: Path) -> bool:
    # _sysconfigdata* is generated for the machine it was built on.
    return not (_EMBEDDED_SKIP & set(relative.parts)) and "_sysconfigdata" not in relative.name


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    known = (*_TEXT_SUFFIXES, ".jsonl", ".parquet")
    paths = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in known)
    if not paths:
        raise UserError(f"data source {str(path)!r}: no file in it ends in {', '.join(known)}")
    return paths


def _identity(parts: list[str], paths: list[Path]) -> str:
    lines = list(parts)
    for path in paths:
        stat = path.stat()
        lines.append(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _texts(paths: list[Path]) -> Iterator[bytes]:
    total = sum(p.stat().st_size for p in paths)
    block = max(1, min(BLOCK_BYTES, total // LEAST_BLOCKS))
    for path in paths:
        for text in _READERS.get(path.suffix, _plain)(path):
            yield from _blocks(text, block)


def _plain(path: Path) -> Iterator[bytes]:
    data = _read(path)
    _check_text(data, str(path))
    yield data


def _jsonl(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _row_text(_parsed(line), f"{path}, line {number}")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _parquet(path: Path) -> Iterator[bytes]:
    with needs("pyarrow", f"{path}: reading parquet"):
        import pyarrow.parquet
    try:
        file = pyarrow.parquet.ParquetFile(path)
        has_text = "text" in file.schema_arrow.names
    except Exception as error:
        raise UserError(f"{path}: not a readable parquet file ({error})") from None
    if not has_text:
        raise UserError(f"{path}: no column 'text'; it has {', '.join(file.schema_arrow.names)}")
    number = 0
    for batch in file.iter_batches(columns=["text"]):
        for text in batch.column(0).to_pylist():
            number += 1
            yield _row_text({"text": text}, f"{path}, row {number}")


def _hugging_face(name: str) -> Source:
    with needs("datasets", f"data source 'hf:{name}'"):
        import datasets
    try:
        rows = datasets.load_dataset(name, split="train")
    except Exception as error:
        raise UserError(f"data source 'hf:{name}' cannot be loaded: {error}") from None

    def documents() -> Iterator[bytes]:
        for number, row in enumerate(rows, 1):
            yield from _blocks(_row_text(row, f"hf:{name}, row {number}"), BLOCK_BYTES)

    return Source(name=f"hf:{name}", identity=f"{name} {rows._fingerprint}", documents=documents)


def _row_text(row: Any, where: str) -> bytes:
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise UserError(f'{where}: expected an object with a string under "text"')
    data = text.encode("utf-8", errors="surrogatepass")
    _check_text(data, where)
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _check_text(data: bytes, where: str) -> None:
    if b"\0" in data:
        raise UserError(f"{where}: holds NUL bytes at {data.index(0)}; expected text in UTF-8")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 at byte {error.start}; expected text in UTF-8"
        ) from None


def _blocks(text: bytes, most: int) -> Iterator[bytes]:
    """Contiguous pieces of at most `most` bytes, cut after a paragraph, else after a line, else a
    character."""
    start = 0
    while len(text) - start > most:
        end = start + most
        for mark in (b"\n\n", b"\n"):
            found = text.rfind(mark, start, end)
            if found > start:
                end = found + len(mark)
                break
        else:
            while end > start + 1 and text[end] & 0xC0 == 0x80:  # inside a UTF-8 character
                end -= 1
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _token_blocks(paths: list[Path]) -> Iterator[bytes]:
    total = sum(p.stat().st_size for p in paths)
    block = max(2, min(BLOCK_BYTES, total // LEAST_BLOCKS) // 2 * 2)
    for path in paths:
        if path.stat().st_size % 2:
            raise UserError(f"{path}: {path.stat().st_size} bytes; expected whole uint16 tokens")
        with path.open("rb") as file:
            while piece := file.read(block):
                yield piece


_READERS: dict[str, Callable[[Path], Iterator[bytes]]] = {
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
