"""Bytes with something wrong: cut, doubled, flipped, filled, and lines of JSON that are lost or another's."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from random import Random
from typing import Any

from .documents import JSON_VALUES, damaged_json, tree_of

# What no text has, or what only some has.
PIECES = (
    *(
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\r\n",
        b"\n",
        b"\n\n",
        b"\r",
        b"\t",
        b"\x1b[2J",
    ),
    *(
        b"\xed\xa0\x80",
        b"\xe2\x80\xa8",
        b"\xc2\x85",
        b"\xf4\x90\x80\x80",
        b"\x80",
        b'"',
        b"{",
        b"}]",
        b": ",
    ),
    *(
        b"-",
        b"#",
        b"&a *a",
        b"!!",
        b"null",
        b"9" * 400,
        b"1e400",
        b"NaN",
        b"\0" * 4096,
        b" " * 100_000,
    ),
)
LONGEST = 1 << 20  # bytes of a damaged file: what is larger is slow to make, and no other damage


def damaged_bytes(random: Random, content: bytes) -> bytes:
    """The content with one to three faults."""
    for _ in range(random.choice((1, 1, 2, 3))):
        content = random.choice(_FAULTS)(random, content)[:LONGEST]
    return content


def damaged_lines(random: Random, content: bytes) -> bytes:
    """Lines of JSON, one to three of them another thing."""
    lines = content.split(b"\n")[:-1]
    for _ in range(random.choice((1, 1, 2, 3))):
        _break_line(random, lines)
    return b"\n".join(lines) + random.choice((b"\n",) * 8 + (b"", b"\n\n"))


def damaged_tensors(random: Random, content: bytes) -> bytes:
    """A safetensors file whose header tells of other tensors than it has."""
    size = int.from_bytes(content[:8], "little")
    header = damaged_json(random, tree_of(json.loads(content[8 : 8 + size]))).encode()
    told = len(header) if random.random() < 0.9 else random.choice((0, 8, 1 << 31, (1 << 64) - 1))
    return told.to_bytes(8, "little") + header + content[8 + size :]


def _break_line(random: Random, lines: list[bytes]) -> None:
    if not lines:
        lines.append(random.choice(JSON_VALUES).encode())
        return
    place = random.randrange(len(lines))
    match random.choice(
        ("record",) * 8 + ("lost", "double", "swap", "blank", "other", "cut", "joined")
    ):
        case "record":
            lines[place] = _other_record(random, lines[place])
        case "lost":
            del lines[place]
        case "double":
            lines.insert(random.randrange(len(lines)), lines[place])
        case "swap":
            other = random.randrange(len(lines))
            lines[place], lines[other] = lines[other], lines[place]
        case "blank":
            lines.insert(place, random.choice((b"", b" ", b"\r", b"\0")))
        case "other":
            lines.insert(place, random.choice(JSON_VALUES).encode())
        case "cut":
            lines[place] = lines[place][: random.randrange(len(lines[place]) + 1)]
        case "joined":
            lines[place : place + 2] = [b"".join(lines[place : place + 2])]


def _other_record(random: Random, line: bytes) -> bytes:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError):
        return line + line  # a line that is damaged already
    return damaged_json(random, tree_of(record)).encode("utf-8", "surrogatepass")


def _span(random: Random, content: bytes) -> tuple[int, int]:
    start = random.randrange(len(content) + 1)
    return start, min(len(content), start + random.choice((1, 8, 64, 1024, 65_536)))


def _cut(random: Random, content: bytes) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _lose(random: Random, content: bytes) -> bytes:
    start, end = _span(random, content)
    return content[:start] + content[end:]


def _double(random: Random, content: bytes) -> bytes:
    start, end = _span(random, content)
    return content[:end] + content[start:end] + content[end:]


def _repeat(random: Random, content: bytes) -> bytes:
    start, end = _span(random, content)
    times = random.choice((100, 10_000))
    return content[:end] + (content[start:end] * times)[:LONGEST] + content[end:]


def _flip(random: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 4, 64))):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _insert(random: Random, content: bytes) -> bytes:
    start = random.choice((0, random.randrange(len(content) + 1), len(content)))
    return content[:start] + random.choice(PIECES) + content[start:]


def _swap(random: Random, content: bytes) -> bytes:
    a, b, c = sorted(random.randrange(len(content) + 1) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def _noise(random: Random, content: bytes) -> bytes:
    start, end = _span(random, content)
    return content[:start] + random.randbytes(end - start) + content[end:]


def _whole(random: Random, content: bytes) -> bytes:
    text = content.decode("latin-1")
    return random.choice(
        (
            b"",
            b"\n",
            content.replace(b"\n", b"\r\n"),
            content.replace(b"\n", b"\r"),
            text.encode("utf-16"),
            text.encode("utf-32"),
            gzip.compress(content, mtime=0),
            b"\0" * len(content),
            random.randbytes(len(content)),
            content * 2,
            content.rstrip(b"\n"),
        )
    )


_FAULTS: tuple[Callable[[Random, bytes], bytes], ...] = (
    *(_cut, _lose, _double, _repeat, _flip, _flip, _insert, _insert, _swap, _noise, _whole),
)
