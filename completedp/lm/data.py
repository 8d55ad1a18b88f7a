"""Corpora: text is prepared once into token files of three splits, then read as windows.

A hash of a document's content decides its split, so equal documents fall in one split. A prepared corpus is a
folder of `train.bin`, `select.bin`, `report.bin`, `meta.json` and, for BPE, `tokenizer.json`. Its name is
made from its content. It appears whole or not at all, even if several processes prepare it at once. The file
`<key>.digest` beside it holds the digest of a source when it was last read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from completedp.config import DataConfig
from completedp.errors import UserError, first_line
from completedp.lm.formats import readable
from completedp.lm.sources import Source, is_gone, open_source
from completedp.lm.token_files import stored_dtype
from completedp.lm.tokenizer import encode_bytes, train_byte_pairs
from completedp.reading import read_json, read_text
from completedp.records import build

Split = Literal["train", "select", "report"]
SPLITS: tuple[Split, ...] = ("train", "select", "report")

# The share of the text's bytes in each held-out split; more if the evaluation needs more.
HELD_OUT_SHARE = 0.05
# A BPE token of a 32k vocabulary holds about 4 bytes of English and at most 8 of any usual text.
BYTES_PER_TOKEN_BOUND = {"bytes": 1, "bpe": 8}
# The tokenizer of a source that holds tokens already.
NO_TOKENIZER = "none"
# Part of the cache's key. Raise it when a change makes other tokens from the same text.
FORMAT = 1


@dataclass
class _Split:
    """One split of a corpus. `bytes` counts its text; None if the source held tokens."""

    tokens: int
    bytes: int | None


@dataclass(frozen=True, kw_only=True)
class _Meta:
    """The content of `meta.json`."""

    source: str
    digest: str
    tokenizer: str
    vocab_size: int
    dtype: Literal["<u2", "<u4"]
    splits: Mapping[Split, _Split]


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus. Token counts include one end-of-document token per document. `found` says which
    files were read, and in which format, if the source's name does not tell."""

    folder: Path
    found: str = field(default="", compare=False)

    @cached_property
    def _meta(self) -> _Meta:
        """The content of `meta.json`. Raises `UserError` if it or a split is damaged."""
        try:
            meta = build(_Meta, read_json(self.folder / "meta.json"), "meta.json")
            splits = {
                name: build(_Split, meta.splits.get(name), f"meta.json, splits.{name}")
                for name in SPLITS
            }
            for name, split in splits.items():
                path = self.folder / f"{name}.bin"
                with readable(path):
                    held = path.stat().st_size
                if not split.tokens or held != split.tokens * np.dtype(meta.dtype).itemsize:
                    raise UserError(
                        f"{path.name} has {held} bytes; expected those of {split.tokens} tokens of "
                        f"{meta.dtype}, and at least one"
                    )
        except UserError as error:
            raise _damaged(self.folder, str(error)) from None
        return replace(meta, splits=splits)

    @property
    def digest(self) -> str:
        """sha256 over the documents' own sha256, in the source's order."""
        return self._meta.digest

    @property
    def tokenizer(self) -> str:
        """`bytes`, `bpe`, or `none` if the source held tokens."""
        return self._meta.tokenizer

    def split(self, name: Split) -> npt.NDArray[Any]:
        """The split's tokens, memory-mapped, uint16 (uint32 if the vocabulary needs it)."""
        try:
            tokens = np.memmap(self.folder / f"{name}.bin", dtype=self._meta.dtype, mode="r")
        except (OSError, ValueError) as error:  # the file was cut meanwhile
            raise _damaged(self.folder, f"{name}.bin: {first_line(error)}") from None
        if len(tokens) != self.tokens(name):
            raise _damaged(
                self.folder, f"{name}.bin has {len(tokens)} of {self.tokens(name)} tokens"
            )
        return tokens

    def check(self, windows: npt.NDArray[np.int64]) -> None:
        """Raises `UserError` for a token outside the vocabulary: the files were damaged meanwhile. The check
        costs microseconds per batch. On a GPU such a token would end the process inside a kernel."""
        vocab_size = self._meta.vocab_size
        if windows.size and (top := int(windows.max())) >= vocab_size:
            raise _damaged(self.folder, f"it holds the token {top} of a vocabulary of {vocab_size}")

    def tokens(self, name: Split) -> int:
        """Tokens of a split."""
        return self._meta.splits[name].tokens

    def bytes_per_token(self, name: Split) -> float | None:
        """Mean bytes of text per token of the split; None if the source held tokens, not text."""
        split = self._meta.splits[name]
        return None if split.bytes is None else split.bytes / split.tokens

    def summary(self, source: str) -> str:
        """A line for people: what was read from the source, the tokenizer, and the tokens of each split."""
        read = f"{source}: {self.found}" if self.found else source
        if self.tokenizer != NO_TOKENIZER:
            read += f"{';' if self.found else ','} {self.tokenizer} tokenizer"
        tokens = ", ".join(f"{split} {self.tokens(split):,}" for split in SPLITS)
        return f"{read}; tokens: {tokens}"


def _damaged(folder: Path, why: str) -> UserError:
    return UserError(
        f"{folder}: a damaged corpus ({why}); remove the folder, and it is prepared again"
    )


def prepare(
    data: DataConfig, vocab_size: int, eval_tokens: int, cache: Path, digest: str | None = None
) -> Corpus:
    """The corpus of `data` in `cache`, prepared at the first call.

    Each of the splits select and report holds more than `eval_tokens`. With a `digest`, the corpus with that
    digest is taken even if the source has changed, because a study keeps the text that it began with. Raises
    `UserError` if the source is missing, empty, not text, too short for its evaluation, or of another
    vocabulary; if neither the source nor the cache has the digest; and if the cached corpus is damaged.
    """
    rest = (vocab_size, eval_tokens)
    if digest is not None and (corpus := cached_corpus(data, *rest, cache, digest)) is not None:
        return corpus
    try:
        source = open_source(data.source, vocab_size)
    except UserError as error:
        if digest is None:
            raise
        raise UserError(f"{error}; {cache} has no prepared corpus {digest} either") from None
    kind = NO_TOKENIZER if source.is_tokens else data.tokenizer
    if not source.is_tokens:
        data.check_vocabulary(vocab_size)
    known = cache / f"{_key(source.identity, kind, *rest)}.digest"
    last_digest = ""
    with contextlib.suppress(UserError):  # the source is read for the first time
        last_digest = read_text(known)
    if (corpus := _cached(cache, last_digest, kind, *rest)) is None:
        corpus = _prepare(source, kind, *rest, cache)
        # If the digest cannot be written, the next call reads the source again.
        with contextlib.suppress(OSError):
            known.write_text(corpus.digest)
    if digest not in (None, corpus.digest):
        raise UserError(
            f"the text of {data.source!r} has changed: its digest is {corpus.digest}, expected {digest}; "
            "restore it, or begin anew"
        )
    return Corpus(corpus.folder, source.found)


def cached_corpus(
    data: DataConfig, vocab_size: int, eval_tokens: int, cache: Path, digest: str
) -> Corpus | None:
    """The corpus with the digest if the cache has it, even if its source has changed or is gone.

    Raises `UserError` if it is damaged.
    """
    for kind in (data.tokenizer, NO_TOKENIZER):  # texts and tokens never share a digest
        if (corpus := _cached(cache, digest, kind, vocab_size, eval_tokens)) is not None:
            gone = ", because its source is gone" if is_gone(data.source) else ""
            return Corpus(corpus.folder, f"as prepared before{gone} ({digest[:19]})")
    return None


def _cached(
    cache: Path, digest: str, kind: str, vocab_size: int, eval_tokens: int
) -> Corpus | None:
    folder = cache / _key(digest, kind, vocab_size, eval_tokens)
    if not folder.exists():
        return None
    corpus = Corpus(folder)
    if corpus.digest != digest:
        raise _damaged(folder, f"its digest is {corpus.digest}, expected {digest}")
    return corpus


def _key(*content: object) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *content]).encode()).hexdigest()[:32]


def _prepare(source: Source, kind: str, vocab_size: int, eval_tokens: int, cache: Path) -> Corpus:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=cache, prefix=".preparing-", ignore_cleanup_errors=True
        ) as name:
            building = Path(name)
            _build(building, source, kind, vocab_size, eval_tokens)
            folder = cache / _key(Corpus(building).digest, kind, vocab_size, eval_tokens)
            try:
                os.rename(building, folder)
            except OSError:
                # Another process was first with the same corpus. Its files are the same.
                if not folder.exists():
                    raise
    except OSError as error:  # from writing: sources raise `UserError`
        raise UserError(
            f"{cache}: cannot be written ({error.strerror}); make room, or give another place"
        ) from None
    return Corpus(folder)


def _build(building: Path, source: Source, kind: str, vocab_size: int, eval_tokens: int) -> None:
    dtype = stored_dtype(vocab_size)
    bound = BYTES_PER_TOKEN_BOUND.get(kind, dtype.itemsize)
    split_of, digest = _assign(source, eval_tokens * bound, dtype)
    if kind == "bpe":
        texts = _documents(source, split_of, "train", _Split(0, 0))
        encode = train_byte_pairs(texts, vocab_size, building / "tokenizer.json")
    else:
        encode = encode_bytes
    counts: dict[Split, _Split] = {}
    for name in SPLITS:
        count = counts[name] = _Split(tokens=0, bytes=0)
        with (building / f"{name}.bin").open("wb") as file:
            documents = _documents(source, split_of, name, count)
            if kind == NO_TOKENIZER:
                for piece in documents:
                    file.write(piece)
                    count.tokens += len(piece) // dtype.itemsize
                count.bytes = None
            else:
                for tokens in encode(documents):
                    file.write(tokens.astype(dtype).tobytes())
                    count.tokens += len(tokens)
            file.flush()
            os.fsync(file.fileno())
    _check_lengths(counts, eval_tokens, source.name)
    meta = _Meta(
        source=source.name,
        digest=f"sha256:{digest}",
        tokenizer=kind,
        vocab_size=vocab_size,
        dtype="<u2" if dtype.itemsize == 2 else "<u4",
        splits=counts,
    )
    text = json.dumps(asdict(meta), indent=1)
    (building / "meta.json").write_text(f"{text}\n", encoding="utf-8")


def _assign(
    source: Source, need_bytes: int, dtype: np.dtype[Any]
) -> tuple[dict[bytes, Split], str]:
    """The split by document hash, and the digest of all documents.

    In the order of their hashes, documents go to report until it holds its share, then to select, then to
    train.
    """
    size: dict[bytes, int] = {}
    # An earlier release read wide tokens as twice as many narrow ones. Those corpora must have other digests.
    wide = source.is_tokens and dtype.itemsize > 2
    whole = hashlib.sha256(dtype.str.encode() if wide else b"")
    for document in source.documents():
        key = hashlib.sha256(document).digest()
        whole.update(key)
        size[key[:16]] = size.get(key[:16], 0) + len(document)
    total = sum(size.values())
    held_out = max(HELD_OUT_SHARE * total, need_bytes + 1)
    split_of: dict[bytes, Split] = {}
    filled: dict[Split, int] = {"report": 0, "select": 0}
    for key in sorted(size):
        split: Split = next((name for name in filled if filled[name] < held_out), "train")
        split_of[key] = split
        if split in filled:
            filled[split] += size[key]
    return split_of, whole.hexdigest()


def _documents(
    source: Source, split_of: dict[bytes, Split], name: Split, count: _Split
) -> Iterator[bytes]:
    for document in source.documents():
        split = split_of.get(hashlib.sha256(document).digest()[:16])
        if split is None:
            raise UserError(f"data source {source.name!r} changed while it was read; start again")
        if split == name:
            assert count.bytes is not None, "counted while it is read"
            count.bytes += len(document)
            yield document


def _check_lengths(counts: dict[Split, _Split], eval_tokens: int, name: str) -> None:
    if all(count.tokens > eval_tokens for count in counts.values()):
        return
    found = sum(count.tokens for count in counts.values())
    parts = ", ".join(f"{split} {count.tokens}" for split, count in counts.items())
    raise UserError(
        f"data source {name!r}: too short: {found} tokens found ({parts}); train.eval_tokens = "
        f"{eval_tokens} needs more than {eval_tokens} in each of the three splits: give more text, or "
        "lower train.eval_tokens"
    )


@dataclass(frozen=True)
class TrainBatches:
    """Windows without overlap, in a new order for each epoch: a function of step and seed.

    A batch has `sequences` windows of `context` + 1 tokens. The last token of a window is only predicted; it
    is the first input of the next window.
    """

    tokens: npt.NDArray[Any]
    context: int
    sequences: int
    seed: int

    @property
    def windows(self) -> int:
        """Windows in an epoch."""
        return (len(self.tokens) - 1) // self.context

    @cached_property
    def _order(self) -> Callable[[int], npt.NDArray[np.int64]]:
        """The order of an epoch. Two are kept: a batch may span the border of two."""
        return lru_cache(maxsize=2)(partial(_permutation, self.windows, self.seed))

    def at(self, step: int) -> npt.NDArray[np.int64]:
        """The batch of a step, `sequences x (context + 1)`."""
        first = step * self.sequences
        picked: list[npt.NDArray[np.int64]] = []
        while (left := self.sequences - sum(map(len, picked))) > 0:
            epoch, begin = divmod(first + self.sequences - left, self.windows)
            picked.append(self._order(epoch)[begin : begin + left])
        return windows_at(self.tokens, np.concatenate(picked) * self.context, self.context)


def _permutation(windows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(windows)


def eval_windows(tokens: npt.NDArray[Any], context: int, eval_tokens: int) -> npt.NDArray[np.int64]:
    """`eval_tokens` // `context` windows, spread evenly over a split and always the same."""
    count = eval_tokens // context
    starts = np.linspace(0, len(tokens) - context - 1, count).astype(np.int64)
    return windows_at(tokens, starts, context)


def windows_at(
    tokens: npt.NDArray[Any], starts: npt.NDArray[np.int64], context: int
) -> npt.NDArray[np.int64]:
    """`context` + 1 tokens from each start, `len(starts) x (context + 1)`."""
    window = starts[:, None] + np.arange(context + 1)
    return np.asarray(tokens[window], dtype=np.int64)
