"""Token files: a header or a sidecar names the dtype; otherwise it is inferred and reported."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from completedp.errors import UserError, nearest, shown
from completedp.lm.formats import check_beginning, readable
from completedp.reading import read_object

# All little-endian.
_DTYPES = {
    "uint16": "<u2",
    "uint32": "<u4",
    "int32": "<i4",
    "int64": "<i8",
    "uint64": "<u8",
}
_KNOWN = ", ".join(_DTYPES)
# llm.c's header is 256 int32. The first three are a magic number, a version, and the number of tokens.
_HEADER_BYTES = 1024
_MAGICS = {20240520: (1, "uint16"), 20240801: (7, "uint32")}
# A dtype is inferred from this many pieces, spread over the file.
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 14
# With fewer 16-bit words, their range tells nothing.
_FEW_WORDS = 64
# 16-bit tokens have the same distribution at odd and even positions. So their 95 % quantiles differ by less
# than this ratio, and their shares of zeros by less than this difference.
_MOST, _RATIO, _DIFFERENCE = 0.95, 16, 0.5


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    """`count` numbers of `dtype` from byte `start`; `why` says how the dtype is known."""

    path: Path
    dtype: str
    start: int
    count: int
    why: str

    @property
    def inferred(self) -> bool:
        return self.why.startswith("inferred")


def stored_dtype(vocab_size: int) -> np.dtype[Any]:
    """The dtype in which a corpus stores the tokens of a vocabulary."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def token_files(paths: Sequence[Path], vocab_size: int) -> list[TokenFile]:
    """The files with their dtypes. Raises `UserError` if a dtype is unclear or they disagree."""
    files = [_token_file(path, vocab_size) for path in paths]
    inferred = {file.dtype: file.path for file in files if file.inferred and file.count}
    if len(inferred) > 1:
        found = ", ".join(f"{path} like {dtype}" for dtype, path in inferred.items())
        raise UserError(
            f"token files of one folder look different: {found}; {_sidecar_hint(paths[0])}"
        )
    return files


def dtype_summary(files: Sequence[TokenFile]) -> str:
    """The dtypes and how they are known, like `uint16 (llm.c's header)`."""
    kinds = Counter(f"{file.dtype} ({file.why})" for file in files)
    if len(kinds) == 1:
        return next(iter(kinds))
    return ", ".join(f"{count} of {kind}" for kind, count in sorted(kinds.items()))


def token_blocks(files: Sequence[TokenFile], vocab_size: int, block_tokens: int) -> Iterator[bytes]:
    """Blocks of tokens, converted to `stored_dtype`.

    Raises `UserError` for a token outside the vocabulary.
    """
    stored = stored_dtype(vocab_size)
    for file in files:
        dtype = np.dtype(_DTYPES[file.dtype])
        with readable(file.path), file.path.open("rb") as stream:
            stream.seek(file.start)
            for first in range(0, file.count, block_tokens):
                wanted = min(block_tokens, file.count - first)
                content = stream.read(wanted * dtype.itemsize)
                if len(content) < wanted * dtype.itemsize:
                    raise UserError(f"{file.path}: became shorter while it was read; start again")
                tokens = np.frombuffer(content, dtype)
                _check(tokens, vocab_size, file, first)
                yield tokens.astype(stored, copy=False).tobytes()


def _check(tokens: npt.NDArray[Any], vocab_size: int, file: TokenFile, first: int) -> None:
    top, bottom = int(tokens.max()), int(tokens.min())
    if bottom >= 0 and top < vocab_size:
        return
    token, index = (bottom, tokens.argmin()) if bottom < 0 else (top, tokens.argmax())
    how = f" (read as {file.dtype}, {file.why}; if it is another, {_sidecar_hint(file.path)})"
    fix = "set it to the vocabulary the file was made with" if token > 0 else "none is below 0"
    raise UserError(
        f"{file.path}, position {first + int(index)}: holds the token {token}; model.vocab_size is "
        f"{vocab_size}: {fix}{how if file.inferred else ''}"
    )


def _token_file(path: Path, vocab_size: int) -> TokenFile:
    with readable(path), path.open("rb") as file:
        size = path.stat().st_size
        start = file.read(_HEADER_BYTES)
        sidecar = _sidecar(path)
        if (known := _by_header(start, size, path)) is not None:
            if sidecar not in (None, known.dtype):
                raise UserError(
                    f"{sidecar_of(path)}: dtype is {sidecar!r}, but the file's header says {known.dtype}; "
                    "remove the sidecar"
                )
            return known
        check_beginning(start, path, numbers=True)
        if sidecar is not None:
            dtype, why = sidecar, "as its sidecar says"
        elif size == 0:
            dtype, why = "uint16", "inferred: it is empty"
        else:
            dtype, why = _infer_dtype(_sample(file, size), vocab_size, path)
    width = np.dtype(_DTYPES[dtype]).itemsize
    if size % width:
        raise UserError(f"{path}: {size} bytes; expected whole {dtype} tokens")
    return TokenFile(path=path, dtype=dtype, start=0, count=size // width, why=why)


def sidecar_of(path: Path) -> Path:
    """The file that may name the dtype of a token file, like {"dtype": "uint32"}."""
    return path.with_name(f"{path.name}.json")


def _sidecar(path: Path) -> str | None:
    sidecar = sidecar_of(path)
    if not sidecar.exists():
        return None
    content = read_object(sidecar)
    for key in content:
        if key != "dtype":
            raise UserError(f"{sidecar}: unknown key {shown(key)}; expected dtype alone")
    dtype = content.get("dtype")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        known = nearest(dtype, _DTYPES) if isinstance(dtype, str) else ""
        raise UserError(f"{sidecar}: dtype is {shown(dtype)}{known or f'; known: {_KNOWN}'}")
    return dtype


def _by_header(start: bytes, size: int, path: Path) -> TokenFile | None:
    if len(start) < _HEADER_BYTES:
        return None
    magic, version, count = (int(n) for n in np.frombuffer(start[:12], "<i4"))
    if magic not in _MAGICS:
        return None
    expected, dtype = _MAGICS[magic]
    if version != expected:
        raise UserError(
            f"{path}: llm.c's header of version {version}; expected {expected}, of {dtype} tokens"
        )
    held, rest = divmod(size - _HEADER_BYTES, np.dtype(_DTYPES[dtype]).itemsize)
    if rest or held != count:
        raise UserError(
            f"{path}: its header says {count} {dtype} tokens, but {size - _HEADER_BYTES} bytes follow; "
            "it was cut, or written twice: make it again"
        )
    return TokenFile(path=path, dtype=dtype, start=_HEADER_BYTES, count=count, why="llm.c's header")


def _sample(file: BinaryIO, size: int) -> npt.NDArray[Any]:
    """16-bit words from all over the file, four per row."""
    starts, length = [0], size
    if size > _SAMPLES * _SAMPLE_BYTES:
        spread = np.linspace(0, size - _SAMPLE_BYTES, _SAMPLES).astype(np.int64) // 8 * 8
        starts, length = spread.tolist(), _SAMPLE_BYTES
    pieces = []
    for start in starts:
        file.seek(start)
        piece = file.read(length)
        pieces.append(piece[: len(piece) // 8 * 8])
    return np.frombuffer(b"".join(pieces), "<u2").reshape(-1, 4)


def _infer_dtype(words: npt.NDArray[Any], vocab_size: int, path: Path) -> tuple[str, str]:
    """The dtype that the words look like, and why. Raises `UserError` if that is unclear.

    A token of 32 or 64 bits has a second word of at most that of the largest token; up to 65,536 tokens it is
    0. The third and the fourth word are 0.
    """
    high = (vocab_size - 1) >> 16
    low, second = words[:, 0::2], words[:, 1::2]
    above = f"at most {high}" if high else "0"
    if len(words) and not words.any():
        raise _unclear(path, "every number is 0")
    if len(words) and not words[:, 2:].any() and (words[:, 1] <= high).all():
        return "int64", "inferred: the upper two of four 16-bit words are 0, the second is " + above
    if (second <= high).all() and (low > high).any():
        return "uint32", f"inferred: every second 16-bit word is {above}"
    if len(words) >= _FEW_WORDS and _uneven(low, second):
        raise _unclear(path, "its 16-bit words are of two kinds in turn")
    if vocab_size > 1 << 16:
        raise _unclear(
            path,
            f"they look like uint16, and model.vocab_size is {vocab_size}, more than that holds",
        )
    return "uint16", "inferred: its 16-bit words are of one kind"


def _uneven(low: npt.NDArray[Any], second: npt.NDArray[Any]) -> bool:
    """Whether odd and even words have different distributions, because they are parts of wider numbers."""
    less, more = sorted(1 + np.quantile(part, _MOST) for part in (low, second))
    zeros = [np.mean(part == 0) for part in (low, second)]
    return bool(less * _RATIO < more or abs(zeros[0] - zeros[1]) > _DIFFERENCE)


def _unclear(path: Path, why: str) -> UserError:
    return UserError(
        f"{path}: the dtype of its numbers is not clear ({why}); {_sidecar_hint(path)}"
    )


def _sidecar_hint(path: Path) -> str:
    example = json.dumps({"dtype": "uint32"})
    return f"name it in a sidecar {sidecar_of(path).name}, like {example} (one of {_KNOWN})"
