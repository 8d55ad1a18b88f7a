"""The damage of each form of content: bytes of the form in, damaged bytes out, from a seeded generator."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from completedp import files

from .damage import damaged_bytes, damaged_lines, damaged_tensors
from .documents import damaged_json, damaged_yaml, tree_of

Damage = Callable[[Random, bytes], bytes]


def _structured(document: Callable[[Random, Any], str], read: Callable[[str], Any]) -> Damage:
    @functools.cache
    def tree(content: bytes) -> Any:
        return tree_of(read(content.decode()))

    def damage(random: Random, content: bytes) -> bytes:
        kind = random.random()
        if kind > 0.25:
            content = document(random, tree(content)).encode("utf-8", "surrogatepass")
        return damaged_bytes(random, content) if kind < 0.25 or kind > 0.9 else content

    return damage


def _read_yaml(text: str) -> Any:
    """With the tool's own reader, which takes `1e-8` for a number; what it reads here is valid."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        return files.read_yaml(Path(file.name))


def _sometimes(often: Damage, otherwise: Damage, share: float) -> Damage:
    def damage(random: Random, content: bytes) -> bytes:
        return (often if random.random() < share else otherwise)(random, content)

    return damage


def _parquet(random: Random, content: bytes) -> bytes:
    """Another table in the same format."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [f"row {i} " * 40 for i in range(200)]
    broken = b"caf\xe9"
    buffers = [None, pa.py_buffer(b"\0\0\0\0\4\0\0\0"), pa.py_buffer(broken)]
    column = random.choice(
        (
            pa.array(texts[:0], pa.string()),
            pa.array([None] * 200, pa.string()),
            pa.nulls(200),
            pa.array(range(200)),
            pa.array([t.encode() for t in texts], pa.binary()),
            pa.array([[t] for t in texts]),
            pa.array([{"text": t} for t in texts]),
            pa.array(texts).dictionary_encode(),
            pa.array(texts, pa.large_string()),
            pa.array([*texts[:5], None, *texts[6:]]),
            pa.array([*texts[:5], "", "\0", *texts[7:]]),
            pa.StringArray.from_buffers(1, buffers[1], buffers[2]),
            pa.chunked_array(
                [pa.array(texts), pa.StringArray.from_buffers(1, buffers[1], buffers[2])]
            ),
        )
    )
    names = random.choice((["text"], ["text"], ["text"], ["Text"], [""], ["text.a"]))
    table = pa.table([column], names=names)
    if random.random() < 0.1:
        table = pa.table([column, column], names=["text", "text"])
    sink = pa.BufferOutputStream()
    coding = random.choice(("snappy", "gzip", "none", "zstd"))
    pq.write_table(table, sink, compression=coding, row_group_size=random.choice((1, 40, 10_000)))
    return bytes(sink.getvalue())


def _tokens(random: Random, content: bytes) -> bytes:
    """The same tokens in another type, or tokens beyond the vocabulary."""
    import numpy as np

    tokens = np.frombuffer(content[: len(content) // 2 * 2], dtype="<u2").copy()
    kind = random.choice(("<u4", "<i8", ">u2", "<f4", "<u1", "header", "beyond", "odd"))
    if kind == "beyond":
        tokens[random.randrange(len(tokens))] = random.choice((256, 65_535))
    elif kind == "header":
        magic = np.zeros(256, dtype="<i4")
        magic[:3] = random.choice(
            ((20240520, 1, len(tokens)), (20240520, 9, 1), (20240801, 7, 1 << 30))
        )
        return magic.tobytes() + tokens.tobytes()
    elif kind == "odd":
        return tokens.tobytes()[:-1]
    else:
        return tokens.astype(kind).tobytes()
    return tokens.tobytes()


YAML = _structured(damaged_yaml, _read_yaml)
JSON = _structured(damaged_json, json.loads)
LINES = _sometimes(damaged_lines, damaged_bytes, 0.8)
TENSORS = _sometimes(damaged_tensors, damaged_bytes, 0.5)
PARQUET = _sometimes(_parquet, damaged_bytes, 0.4)
TOKENS = _sometimes(_tokens, damaged_bytes, 0.4)
