"""Text to tokens and back: bytes, or byte-pair encoding through the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from completedp.errors import UserError, needs

# Ends every document. For bytes it is NUL, which no text holds. A trained vocabulary has a token for it.
END_OF_DOCUMENT = 0
END_TOKEN = "<|endoftext|>"

# The smallest BPE vocabulary: every byte, and the end of a document.
LEAST_VOCABULARY = 257
# A vocabulary is trained on this much text. More text costs minutes and changes the compression of a 32k
# vocabulary by less than a percent.
TRAINING_BYTES = 200_000_000
# Documents encoded at once; enough to keep the library's threads busy.
ENCODE_DOCUMENTS = 1024

TokenArray = npt.NDArray[np.unsignedinteger[Any]]


class Tokenizer(Protocol):
    """Encodes documents of UTF-8 text, each ended by `END_OF_DOCUMENT`."""

    def encode(self, documents: Iterable[bytes]) -> Iterator[TokenArray]: ...


class Bytes:
    """One token per byte."""

    def encode(self, documents: Iterable[bytes]) -> Iterator[TokenArray]:
        for document in documents:
            yield np.frombuffer(document + b"\0", dtype=np.uint8)


class BytePairs:
    """A byte-level BPE vocabulary, stored as a tokenizer.json of the `tokenizers` library."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def train(cls, documents: Iterable[bytes], vocab_size: int) -> BytePairs:
        """Train on the first `TRAINING_BYTES`. Raises `UserError` if the text yields too few pairs, or if
        `vocab_size` cannot hold every byte."""
        if vocab_size < LEAST_VOCABULARY:
            raise UserError(
                f"model.vocab_size is {vocab_size}; data.tokenizer: bpe needs {LEAST_VOCABULARY} or more"
            )
        tokenizers = _library()
        model = tokenizers.Tokenizer(tokenizers.models.BPE())
        model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_TOKEN],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        model.train_from_iterator(_first_bytes(documents), trainer)
        if model.get_vocab_size() != vocab_size:
            raise UserError(
                f"the text gives a vocabulary of {model.get_vocab_size()} tokens; model.vocab_size asks "
                f"for {vocab_size}: lower it, give more text, or use data.tokenizer: bytes"
            )
        return cls(model)

    @classmethod
    def load(cls, path: Path) -> BytePairs:
        """Read a tokenizer.json."""
        return cls(_library().Tokenizer.from_file(str(path)))

    def save(self, path: Path) -> None:
        # Written here, because the library raises a bare Exception if the disk is full.
        path.write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")

    def encode(self, documents: Iterable[bytes]) -> Iterator[TokenArray]:
        iterator = iter(documents)
        while batch := [text.decode() for text in islice(iterator, ENCODE_DOCUMENTS)]:
            for encoding in self._tokenizer.encode_batch_fast(batch):
                yield np.array([*encoding.ids, END_OF_DOCUMENT], dtype=np.uint32)


def _library() -> Any:
    with needs("tokenizers", "data.tokenizer: bpe"):
        import tokenizers
    return tokenizers


def _first_bytes(documents: Iterable[bytes]) -> Iterator[str]:
    left = TRAINING_BYTES
    for document in documents:
        if left <= 0:
            return
        left -= len(document)
        yield document.decode()
