"""Corpora: prepared once into token files of three splits, then read as windows.

Documents are assigned to splits by a hash of their content, so equal documents fall in one split. A
prepared corpus is a folder of `train.bin`, `select.bin`, `report.bin`, `meta.json` and, for BPE,
`tokenizer.json`, named by its content; it appears whole or not at all, whoever else prepares it at the time.
`<key>.digest` beside it says what a source held when it was last read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from completedp.config import DataConfig
from completedp.errors import UserError, first_line, shown
from completedp.lm.sources import Source, is_gone, open_source
from completedp.lm.token_files import stored_dtype
from completedp.lm.tokenizer import BytePairs, Bytes, Tokenizer
from completedp.reading import is_count, read_object, read_text

Split = Literal["train", "select", "report"]
SPLITS: tuple[Split, ...] = ("train", "select", "report")

# Of the text's bytes; more where the evaluation needs more.
HELD_OUT_SHARE = 0.05
# A BPE token of a 32k vocabulary holds about 4 bytes of English and at most 8 of any usual text.
BYTES_PER_TOKEN_BOUND = {"bytes": 1, "bpe": 8}
# The tokenizer of what holds tokens already.
NO_TOKENIZER = "none"
# Part of the cache's key: raise it when the same text would be prepared to other tokens.
FORMAT = 1


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus. Token counts include one end-of-document token a document. `found` says what was
    read, and as what, where the source's name does not tell."""

    folder: Path
    found: str = field(default="", compare=False)

    @cached_property
    def _meta(self) -> dict[str, Any]:
        return _checked_meta(self.folder)

    @property
    def digest(self) -> str:
        """sha256 over the documents' own sha256, in the source's order."""
        return str(self._meta["digest"])

    @property
    def tokenizer(self) -> str:
        """`bytes`, `bpe`, or `none` where the source had tokens."""
        return str(self._meta["tokenizer"])

    def split(self, name: Split) -> npt.NDArray[Any]:
        """The split's tokens, memory-mapped, uint16 (uint32 where the vocabulary needs it)."""
        try:
            tokens = np.memmap(self.folder / f"{name}.bin", dtype=self._meta["dtype"], mode="r")
        except (OSError, ValueError) as error:  # cut since it was looked at
            raise _damaged(self.folder, f"{name}.bin: {first_line(error)}") from None
        if len(tokens) != self.tokens(name):
            raise _damaged(
                self.folder, f"{name}.bin has {len(tokens)} of {self.tokens(name)} tokens"
            )
        return tokens

    def check(self, windows: npt.NDArray[np.int64]) -> None:
        """Raises `UserError` for tokens that no vocabulary has: the files were damaged since. A look at each
        batch costs microseconds; on a GPU such a token would end the process in the middle of a kernel."""
        vocab_size = self._meta["vocab_size"]
        if windows.size and (top := int(windows.max())) >= vocab_size:
            raise _damaged(self.folder, f"it holds the token {top} of a vocabulary of {vocab_size}")

    def tokens(self, name: Split) -> int:
        """Tokens of a split."""
        return int(self._meta["splits"][name]["tokens"])

    def bytes_per_token(self, name: Split) -> float | None:
        """Bytes of text a token of the split stands for; None where the source had tokens, not text."""
        split = self._meta["splits"][name]
        return None if split["bytes"] is None else split["bytes"] / split["tokens"]

    def described(self, source: str) -> str:
        """A line for people: what of the source was read and as what, and the tokens of each split."""
        read = f"{source}: {self.found}" if self.found else source
        if self.tokenizer != NO_TOKENIZER:
            read += f"{';' if self.found else ','} {self.tokenizer} tokenizer"
        tokens = ", ".join(f"{split} {self.tokens(split):,}" for split in SPLITS)
        return f"{read}; tokens: {tokens}"


def _damaged(folder: Path, why: str) -> UserError:
    """What is said of a prepared corpus whose files are not what they were."""
    return UserError(
        f"{folder}: a damaged corpus ({why}); remove the folder, and it is prepared again"
    )


def _checked_meta(folder: Path) -> dict[str, Any]:
    """What a prepared corpus says of itself. Raises `UserError` where that or a split is damaged."""
    try:
        meta = read_object(folder / "meta.json")
        if fault := _fault(meta, folder):
            raise UserError(fault)
    except UserError as error:
        raise _damaged(folder, str(error)) from None
    return meta


def _fault(meta: dict[str, Any], folder: Path) -> str | None:
    for name in ("digest", "tokenizer"):
        if not isinstance(meta.get(name), str):
            return f"{name} is {shown(meta.get(name))}; expected text"
    if not is_count(meta.get("vocab_size")):
        return f"vocab_size is {shown(meta.get('vocab_size'))}; expected a whole number"
    if (dtype := meta.get("dtype")) not in ("<u2", "<u4"):
        return f"dtype is {shown(dtype)}; expected <u2 or <u4"
    splits = meta.get("splits")
    for name in SPLITS:
        split = splits.get(name) if isinstance(splits, dict) else None
        if not isinstance(split, dict):
            return f"splits.{name} is {shown(split)}; expected an object"
        tokens, size = split.get("tokens"), split.get("bytes")
        if not (is_count(tokens) and tokens and (size is None or is_count(size))):
            return f"splits.{name} has {shown(split)}; expected counts of tokens and bytes"
        held = _size(folder / f"{name}.bin")
        if held != tokens * np.dtype(dtype).itemsize:
            return f"{name}.bin has {held} bytes; expected those of {tokens} tokens of {dtype}"
    return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def prepare(
    data: DataConfig, vocab_size: int, eval_tokens: int, cache: Path, digest: str | None = None
) -> Corpus:
    """The corpus of `data` in `cache`, prepared on the first call.

    `eval_tokens` is what each of select and report must hold. With a `digest` it is the corpus that has it,
    whatever the source holds by now: a study's text is the one it began with. Raises `UserError` when the
    source is missing, empty, not text, too short for its evaluation, or of another vocabulary; where a digest
    is asked for, when neither it nor the cache has that; and when the cache's corpus is damaged.
    """
    rest = (vocab_size, eval_tokens)
    if digest is not None and (corpus := kept(data, *rest, cache, digest)) is not None:
        return corpus
    source = _opened(data, vocab_size, cache, digest)
    kind = NO_TOKENIZER if source.is_tokens else data.tokenizer
    if not source.is_tokens:
        data.check_vocabulary(vocab_size)
    known = cache / f"{_key(source.identity, kind, *rest)}.digest"
    corpus = _held(cache, _noted(known), kind, *rest)
    if corpus is None:
        corpus = _prepared(source, kind, *rest, cache)
        # Where the note cannot be written, the source is read again the next time.
        with contextlib.suppress(OSError):
            known.write_text(corpus.digest)
    if digest not in (None, corpus.digest):
        raise UserError(
            f"the text of {data.source!r} has changed: its digest is {corpus.digest}, expected {digest}; "
            "restore it, or begin anew"
        )
    return Corpus(corpus.folder, source.found)


def kept(
    data: DataConfig, vocab_size: int, eval_tokens: int, cache: Path, digest: str
) -> Corpus | None:
    """The corpus with the digest, where the cache has it, whatever has become of its source.

    Raises `UserError` where it is damaged.
    """
    kinds = [data.tokenizer, NO_TOKENIZER]  # texts and tokens of one digest there are none
    found = (_held(cache, digest, kind, vocab_size, eval_tokens) for kind in kinds)
    corpus = next((corpus for corpus in found if corpus is not None), None)
    if corpus is None:
        return None
    gone = ", for its source is gone" if is_gone(data.source) else ""
    return Corpus(corpus.folder, f"as prepared before{gone} ({digest[:19]})")


def _held(
    cache: Path, digest: str | None, kind: str, vocab_size: int, eval_tokens: int
) -> Corpus | None:
    if digest is None:
        return None
    folder = cache / _key(digest, kind, vocab_size, eval_tokens)
    if not folder.exists():
        return None
    corpus = Corpus(folder)
    if corpus.digest != digest:
        raise _damaged(folder, f"its digest is {corpus.digest}, expected {digest}")
    return corpus


def _noted(path: Path) -> str | None:
    """The digest that a source had when it was last read, where that is known."""
    try:
        return read_text(path)
    except UserError:
        return None


def _opened(data: DataConfig, vocab_size: int, cache: Path, digest: str | None) -> Source:
    try:
        return open_source(data.source, vocab_size)
    except UserError as error:
        if digest is None:
            raise
        raise UserError(f"{error}; nor has {cache} the prepared corpus {digest}") from None


def _key(*content: object) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *content]).encode()).hexdigest()[:32]


def _prepared(source: Source, kind: str, vocab_size: int, eval_tokens: int, cache: Path) -> Corpus:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=cache, prefix=".preparing-"))
    except OSError as error:
        raise UserError(
            f"{cache}: cannot be written ({error.strerror}); give another place"
        ) from None
    try:
        _build(building, source, kind, vocab_size, eval_tokens)
        folder = cache / _key(Corpus(building).digest, kind, vocab_size, eval_tokens)
        _move_in(building, folder)
    except OSError as error:  # of writing: sources raise a `UserError` of their own
        raise UserError(
            f"{cache}: cannot be written ({error.strerror}); make room, or give another place"
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Corpus(folder)


def _move_in(building: Path, folder: Path) -> None:
    try:
        os.rename(building, folder)
    except OSError:
        # Another process prepared the same corpus first; its files are the same as ours.
        if not folder.exists():
            raise


@dataclass
class _Count:
    tokens: int = 0
    bytes: int | None = 0


def _build(building: Path, source: Source, kind: str, vocab_size: int, eval_tokens: int) -> None:
    dtype = stored_dtype(vocab_size)
    bound = BYTES_PER_TOKEN_BOUND.get(kind, dtype.itemsize)
    split_of, digest = _assign(source, eval_tokens * bound, dtype)
    tokenizer = _tokenizer(kind, source, split_of, vocab_size, building)
    counts: dict[str, _Count] = {}
    for name in SPLITS:
        count = counts[name] = _Count()
        with (building / f"{name}.bin").open("wb") as file:
            documents = _documents(source, split_of, name, count)
            if tokenizer is None:
                for piece in documents:
                    file.write(piece)
                    count.tokens += len(piece) // dtype.itemsize
                count.bytes = None
            else:
                for tokens in tokenizer.encode(documents):
                    file.write(tokens.astype(dtype).tobytes())
                    count.tokens += len(tokens)
            file.flush()
            os.fsync(file.fileno())
    _check_lengths(counts, eval_tokens, source.name)
    meta = {
        "source": source.name,
        "digest": f"sha256:{digest}",
        "tokenizer": kind,
        "vocab_size": vocab_size,
        "dtype": dtype.str,
        "splits": {name: asdict(count) for name, count in counts.items()},
    }
    (building / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def _assign(
    source: Source, need_bytes: int, dtype: np.dtype[Any]
) -> tuple[dict[bytes, Split], str]:
    """The split of every document's hash, and the digest of the whole.

    In the order of their hashes, documents go to report until it holds its share, then to select, then
    to train.
    """
    size: dict[bytes, int] = {}
    # Wide tokens were once read as twice as many narrow ones: those corpora must not be found for these.
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
    source: Source, split_of: dict[bytes, Split], name: Split, count: _Count
) -> Iterator[bytes]:
    for document in source.documents():
        split = split_of.get(hashlib.sha256(document).digest()[:16])
        if split is None:
            raise UserError(f"data source {source.name!r} changed while it was read; start again")
        if split == name:
            assert count.bytes is not None, "counted while it is read"
            count.bytes += len(document)
            yield document


def _tokenizer(
    kind: str, source: Source, split_of: dict[bytes, Split], vocab_size: int, building: Path
) -> Tokenizer | None:
    if kind == NO_TOKENIZER:
        return None
    if kind == "bytes":
        return Bytes()
    pairs = BytePairs.train(_documents(source, split_of, "train", _Count()), vocab_size)
    pairs.save(building / "tokenizer.json")
    return pairs


def _check_lengths(counts: dict[str, _Count], eval_tokens: int, name: str) -> None:
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
    """Windows that do not overlap, in an order of their own for each epoch; a function of step and seed.

    `sequences` windows a batch, each of `context` + 1 tokens: the last is only predicted, and is the
    first input of the window after it.
    """

    tokens: npt.NDArray[Any]
    context: int
    sequences: int
    seed: int

    @property
    def windows(self) -> int:
        """Windows of an epoch."""
        return (len(self.tokens) - 1) // self.context

    @cached_property
    def _orders(self) -> dict[int, npt.NDArray[np.int64]]:
        return {}

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch not in self._orders:
            self._orders.clear()
            random = np.random.default_rng((self.seed, epoch))
            self._orders[epoch] = random.permutation(self.windows)
        return self._orders[epoch]

    def at(self, step: int) -> npt.NDArray[np.int64]:
        """The batch of a step, `sequences x (context + 1)`."""
        first = step * self.sequences
        picked: list[npt.NDArray[np.int64]] = []
        while (left := self.sequences - sum(map(len, picked))) > 0:
            epoch, place = divmod(first + self.sequences - left, self.windows)
            picked.append(self._order(epoch)[place : place + left])
        return windows_at(self.tokens, np.concatenate(picked) * self.context, self.context)


def eval_windows(tokens: npt.NDArray[Any], context: int, eval_tokens: int) -> npt.NDArray[np.int64]:
    """`eval_tokens` // `context` windows spread evenly over a split, always the same ones."""
    count = eval_tokens // context
    starts = np.linspace(0, len(tokens) - context - 1, count).astype(np.int64)
    return windows_at(tokens, starts, context)


def windows_at(
    tokens: npt.NDArray[Any], starts: npt.NDArray[np.int64], context: int
) -> npt.NDArray[np.int64]:
    """`context` + 1 tokens from each start, `len(starts) x (context + 1)`."""
    window = starts[:, None] + np.arange(context + 1)
    return np.asarray(tokens[window], dtype=np.int64)
