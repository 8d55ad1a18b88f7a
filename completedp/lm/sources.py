"""Sources of text. Each has an identity for the cache and an iterator over its documents."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from completedp.config import ENDINGS, format_of
from completedp.errors import UserError, clipped, first_line, needs
from completedp.lm.formats import READERS, readable, row_text
from completedp.lm.token_files import (
    dtype_summary,
    sidecar_of,
    stored_dtype,
    token_blocks,
    token_files,
)

# Long texts are cut into blocks, so that one file can give three splits. A block is at most 64 kB, which is
# long against any context, and at most a 200th of the corpus, so that a 5 % split has several blocks.
BLOCK_BYTES = 1 << 16
LEAST_BLOCKS = 200

# The most file endings that a message lists.
_MOST_ENDINGS = 8
_EMBEDDED_SKIP = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
)
_OTHER_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Each call of `documents()` gives the same non-empty documents in the same order.

    A document is UTF-8 text or, if the source `is_tokens`, tokens in the stored dtype of the vocabulary.
    `identity` changes with the source, as far as that shows without reading it. `found` says which files are
    read, and in which format, if the name does not tell.
    """

    name: str
    identity: str
    documents: Callable[[], Iterator[bytes]]
    is_tokens: bool = False
    found: str = ""


def open_source(source: str, vocab_size: int) -> Source:
    """The source that a `DataConfig` names. Token files are read for the vocabulary size.

    Raises `UserError` if it is missing or not readable.
    """
    if source == "embedded":
        root = Path(sysconfig.get_path("stdlib"))
        paths = [
            path
            for path in sorted(root.rglob("*.py"))
            if not _EMBEDDED_SKIP & {*path.relative_to(root).parts}
            # _sysconfigdata* is generated for the machine it was built on.
            and "_sysconfigdata" not in path.name
        ]
        return Source(
            name=source,
            identity=_identity([source, sys.version], paths),
            documents=lambda: _texts(paths),
        )
    if source.startswith("hf:"):
        return _hugging_face(source.removeprefix("hf:"))
    listing = _listing(source)
    if listing.is_tokens:
        return _tokens(source, listing, vocab_size)
    return Source(
        name=source,
        identity=_identity([str(format_of(p.name)) for p in listing.paths], listing.paths),
        documents=lambda: _texts(listing.paths),
        found=listing.found,
    )


def is_gone(source: str) -> bool:
    """Whether the source is a path and nothing is there."""
    if not _is_path(source):
        return False
    try:
        _path(source).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False  # something is there; opening it reports the error
    return False


def found(source: str, vocab_size: int) -> str:
    """`Source.found` of a path; empty for other sources. Raises `UserError` as `open_source` does."""
    return open_source(source, vocab_size).found if _is_path(source) else ""


def size(source: str) -> int:
    """Bytes of the files that are read; 0 if the source is no path, or nothing is there.

    Raises `UserError` as `open_source` does.
    """
    if not _is_path(source) or is_gone(source):
        return 0
    return sum(_stat(path).st_size for path in _listing(source).paths)


def _is_path(source: str) -> bool:
    return source != "embedded" and not source.startswith("hf:")


def _tokens(source: str, listing: _Listing, vocab_size: int) -> Source:
    files = token_files(listing.paths, vocab_size)
    total = 2 * sum(file.count for file in files)  # bytes of 16-bit tokens, whatever these are
    block = max(1, min(BLOCK_BYTES, total // LEAST_BLOCKS) // 2)
    # The same file gives other tokens if it is read or stored with another dtype.
    parts = [f"{file.dtype} {file.start}" for file in files]
    return Source(
        name=source,
        identity=_identity([stored_dtype(vocab_size).str, *parts], listing.paths),
        documents=lambda: token_blocks(files, vocab_size, block),
        is_tokens=True,
        found="; ".join(filter(None, (listing.found, dtype_summary(files)))),
    )


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """The files to read, and a line about them. Either all or none of them hold tokens."""

    paths: Sequence[Path]
    is_tokens: bool
    found: str


def _path(source: str) -> Path:
    return Path(os.path.expanduser(source))


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # no file can have this name
        raise UserError(f"{str(path)!r}: cannot be read ({first_line(error)})") from None


def _listing(source: str) -> _Listing:
    """Raises `UserError` if there is nothing to read."""
    path = _path(source)
    if is_gone(source):
        raise UserError(
            f"data source {source!r}: no such file or folder; expected 'embedded', 'hf:<name>', or a path "
            "to text, JSON rows, parquet, token files, or a folder of them"
        )
    mode = _stat(path).st_mode
    if stat.S_ISDIR(mode):
        return _folder(path)
    if not stat.S_ISREG(mode):
        kind = _OTHER_KINDS.get(stat.S_IFMT(mode), "no file")
        raise UserError(
            f"data source {source!r}: is {kind}, which can be read once at most; expected a file or a "
            "folder: write the content to a file"
        )
    found = "" if format_of(path.name) else "read as text, because its ending is not known"
    return _Listing(paths=[path], is_tokens=format_of(path.name) == "tokens", found=found)


def _folder(folder: Path) -> _Listing:
    """The folder's texts or, if there are none, its token files."""
    files, others = _walk(folder)
    tokens = [path for path in files if format_of(path.name) == "tokens"]
    sidecars = {sidecar_of(path) for path in tokens}
    texts = [
        path
        for path in files
        if format_of(path.name) not in (None, "tokens") and path not in sidecars
    ]
    read = texts or tokens
    known = {*read, *(() if texts else sidecars)}
    left = others + Counter(_ending(path.name) for path in files if path not in known)
    if not read:
        has = f"; it has {_counted(left)}" if left else ""
        raise UserError(
            f"data source {str(folder)!r}: no file in it ends in {', '.join(ENDINGS)}{has}"
        )
    number = f"{len(read)} {'file' if len(read) == 1 else 'files'}"
    found = f"read {number} ({_counted(Counter(_ending(path.name) for path in read))})"
    if left:
        found += f"; left out: {_counted(left)}"
    return _Listing(paths=read, is_tokens=not texts, found=found)


def _walk(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Every file below the folder, sorted, and the counts of other entries by kind.

    Linked folders are read last, so that a folder inside `folder` keeps its own name. Each folder is read
    once, because links may form a circle.
    """
    files: list[Path] = []
    others: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    pending = [folder]
    links: list[Path] = []
    while pending or links:
        here = pending.pop() if pending else links.pop(0)
        held = _stat(here)
        if (held.st_dev, held.st_ino) in seen:
            continue
        seen.add((held.st_dev, held.st_ino))
        with readable(here), os.scandir(here) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                others["hidden"] += 1
            elif entry.is_symlink() and not os.path.exists(path):
                others["broken link"] += 1
            elif entry.is_dir():
                (links if entry.is_symlink() else pending).append(path)
            elif entry.is_file():
                files.append(path)
            else:
                others["pipe, socket or device"] += 1
    return sorted(files), others


def _ending(name: str) -> str:
    """A file's ending for messages."""
    ending = os.path.splitext(name)[1]
    if not ending:
        return "no ending"
    return clipped(ending if ending.isprintable() else ascii(ending), 20)


def _counted(endings: Counter[str]) -> str:
    """Like `.txt 12, .md 3`, the most frequent first."""
    ordered = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{ending} {count}" for ending, count in ordered[:_MOST_ENDINGS]]
    if rest := sum(count for _, count in ordered[_MOST_ENDINGS:]):
        parts.append(f"others {rest}")
    return ", ".join(parts)


def _identity(parts: Sequence[str], paths: Sequence[Path]) -> str:
    lines = [part.encode() for part in parts]
    for path in paths:
        held = _stat(path)
        # Names need not be UTF-8.
        lines.append(os.fsencode(path.resolve()) + b" %d %d" % (held.st_size, held.st_mtime_ns))
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def _texts(paths: Sequence[Path]) -> Iterator[bytes]:
    total = sum(_stat(path).st_size for path in paths)
    block = max(1, min(BLOCK_BYTES, total // LEAST_BLOCKS))
    for path in paths:
        for text in READERS[format_of(path.name) or "text"](path):
            yield from _blocks(text, block)


def _hugging_face(name: str) -> Source:
    with needs("datasets", f"data source 'hf:{name}'"):
        import datasets
    try:
        # Code that comes with a data set is never run.
        rows = datasets.load_dataset(name, split="train", trust_remote_code=False)
    except Exception as error:
        raise UserError(f"data source 'hf:{name}' cannot be loaded: {error}") from None

    def documents() -> Iterator[bytes]:
        for number, row in enumerate(_each(rows, name), 1):
            yield from _blocks(row_text(row, f"hf:{name}, row {number}"), BLOCK_BYTES)

    return Source(name=f"hf:{name}", identity=f"{name} {rows._fingerprint}", documents=documents)


def _each(rows: Iterable[object], name: str) -> Iterator[object]:
    try:
        yield from rows
    except Exception as error:
        raise UserError(f"data source 'hf:{name}' cannot be read: {first_line(error)}") from None


def _blocks(text: bytes, most: int) -> Iterator[bytes]:
    """Contiguous pieces of at most `most` bytes. A cut falls after a paragraph if possible, else after a
    line, else after a character."""
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
