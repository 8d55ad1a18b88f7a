"""Text to tokens and back: bytes, or byte-pair encoding through the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

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
# Encodes documents of UTF-8 text, each ended by `END_OF_DOCUMENT`.
Encode = Callable[[Iterable[bytes]], Iterator[TokenArray]]


def encode_bytes(documents: Iterable[bytes]) -> Iterator[TokenArray]:
    """One token per byte, and NUL after each document."""
    for document in documents:
        yield np.frombuffer(document + b"\0", dtype=np.uint8)


def train_byte_pairs(documents: Iterable[bytes], vocab_size: int, path: Path) -> Encode:
    """Train a byte-level BPE vocabulary on the first `TRAINING_BYTES`.

    It is saved at `path` as a tokenizer.json of the `tokenizers` library. Raises `UserError` if the text
    yields too few pairs, or if `vocab_size` cannot hold every byte.
    """
    if vocab_size < LEAST_VOCABULARY:
        raise UserError(
            f"model.vocab_size is {vocab_size}; data.tokenizer: bpe needs {LEAST_VOCABULARY} or more"
        )
    with needs("tokenizers", "data.tokenizer: bpe"):
        import tokenizers
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
    # Written here, because the library raises a bare Exception if the disk is full.
    path.write_text(model.to_str(pretty=True), encoding="utf-8")

    def encode(documents: Iterable[bytes]) -> Iterator[TokenArray]:
        iterator = iter(documents)
        while batch := [text.decode() for text in islice(iterator, ENCODE_DOCUMENTS)]:
            for encoding in model.encode_batch_fast(batch):
                yield np.array([*encoding.ids, END_OF_DOCUMENT], dtype=np.uint32)

    return encode


def _first_bytes(documents: Iterable[bytes]) -> Iterator[str]:
    left = TRAINING_BYTES
    for document in documents:
        if left <= 0:
            return
        left -= len(document)
        yield document.decode()
