"""Token files: their numbers are known, inferred and said, or refused; never guessed in silence."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from completedp.config import DataConfig
from completedp.errors import UserError
from completedp.lm.data import SPLITS, Corpus, prepare
from completedp.lm.sources import open_source

# Of `tokens()` as uint16, which was always read.
GOLDEN_DIGEST = "sha256:42375b8d1141fa21c45e9874a4aaa546fbbd119fa3987975c118688cfd1566d9"
GOLDEN_SPLITS = "24b09e0daacceb53f3d02bdef1e72409c459d7948096836cd8e1369046288cb4"
DTYPES = ["uint16", "uint32", "int32", "int64", "uint64"]


def tokens(vocab_size: int = 50_000, count: int = 40_000) -> npt.NDArray[np.int64]:
    return np.random.default_rng(3).integers(0, vocab_size, count)


def write(path: Path, values: npt.NDArray[Any], dtype: str, sidecar: str | None = None) -> Path:
    path.write_bytes(values.astype(np.dtype(dtype).newbyteorder("<")).tobytes())
    if sidecar is not None:
        path.with_name(f"{path.name}.json").write_text(sidecar)
    return path


def headed(path: Path, values: npt.NDArray[Any], dtype: str, *start: int) -> Path:
    header = np.zeros(256, "<i4")
    header[: len(start)] = start
    path.write_bytes(header.tobytes() + values.astype(dtype).tobytes())
    return path


def prepared(path: Path, vocab_size: int = 50_000) -> Corpus:
    return prepare(DataConfig(source=str(path)), vocab_size, 500, path.parent / "cache")


def content(corpus: Corpus) -> list[bytes]:
    return [corpus.split(split).tobytes() for split in SPLITS]


def test_uint16_files_are_prepared_as_ever(tmp_path: Path) -> None:
    """The digest and the splits that the first version made of these tokens."""
    corpus = prepared(write(tmp_path / "a.bin", tokens(), "uint16"))
    assert corpus.digest == GOLDEN_DIGEST
    assert hashlib.sha256(b"".join(content(corpus))).hexdigest() == GOLDEN_SPLITS


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("said", [True, False])
def test_the_same_tokens_are_the_same_corpus_in_any_dtype(
    tmp_path: Path, dtype: str, said: bool
) -> None:
    sidecar = json.dumps({"dtype": dtype}) if said else None
    corpus = prepared(write(tmp_path / "a.bin", tokens(), dtype, sidecar))
    assert corpus.digest == GOLDEN_DIGEST
    assert hashlib.sha256(b"".join(content(corpus))).hexdigest() == GOLDEN_SPLITS
    if said:
        assert corpus.found == f"{dtype} (as its sidecar says)"
    else:
        inferred = {"int32": "uint32", "uint64": "int64"}.get(dtype, dtype)
        assert corpus.found.startswith(f"{inferred} (inferred: ")


@pytest.mark.parametrize("size", [256, 65_536, 40_000_000])
@pytest.mark.parametrize("dtype", ["uint32", "int64"])
def test_a_large_file_is_told_by_its_sample(tmp_path: Path, dtype: str, size: int) -> None:
    values = tokens(min(size, 100_000), 600_000)
    source = open_source(str(write(tmp_path / "a.bin", values, dtype)), size)
    assert source.found.startswith(f"{dtype} (inferred: ")
    stored = np.dtype("<u2" if size <= 65_536 else "<u4")
    assert (np.frombuffer(b"".join(source.documents()), stored) == values).all()


@pytest.mark.parametrize(
    ("dtype", "start"), [("<u2", (20240520, 1)), ("<u4", (20240801, 7))], ids=["gpt2", "llama3"]
)
def test_the_header_of_llm_c_is_read(tmp_path: Path, dtype: str, start: tuple[int, ...]) -> None:
    corpus = prepared(headed(tmp_path / "a.bin", tokens(), dtype, *start, 40_000))
    assert corpus.digest == GOLDEN_DIGEST
    assert corpus.found == f"{np.dtype(dtype).name} (llm.c's header)"


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ((20240520, 1, 39_999), "its header says 39999 uint16 tokens, but 80000 bytes follow"),
        ((20240520, 1, -1), "its header says -1 uint16 tokens"),
        ((20240520, 2, 40_000), "llm.c's header of version 2; expected 1"),
    ],
)
def test_a_header_that_is_wrong_is_refused(
    tmp_path: Path, start: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepared(headed(tmp_path / "a.bin", tokens(), "<u2", *start))


def test_a_header_and_a_sidecar_must_agree(tmp_path: Path) -> None:
    path = headed(tmp_path / "a.bin", tokens(), "<u2", 20240520, 1, 40_000)
    (tmp_path / "a.bin.json").write_text('{"dtype": "uint16"}')
    assert prepared(path).digest == GOLDEN_DIGEST
    (tmp_path / "a.bin.json").write_text('{"dtype": "uint32"}')
    with pytest.raises(UserError, match="but the file's header says uint16; remove the sidecar"):
        prepared(path)


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        ('{"dtype": "uint8"}', r"a.bin.json: dtype is 'uint8'; did you mean 'uint"),
        ('{"dtype": 16}', "a.bin.json: dtype is 16; known: uint16, uint32"),
        ("{}", "a.bin.json: dtype is None; known"),
        ('{"dtype": "uint16", "order": "big"}', "a.bin.json: unknown key 'order'"),
        ("[]", "a.bin.json: expected an object"),
        ("{", "a.bin.json: not JSON"),
    ],
)
def test_a_sidecar_that_says_nothing_is_refused(tmp_path: Path, sidecar: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepared(write(tmp_path / "a.bin", tokens(), "uint16", sidecar))


def test_a_vocabulary_beyond_uint16_is_never_read_as_uint16(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", tokens(), "uint16")
    with pytest.raises(
        UserError, match=r"look like uint16, and model.vocab_size is 100000.*sidecar"
    ):
        prepared(path, 100_000)
    (tmp_path / "a.bin.json").write_text('{"dtype": "uint16"}')
    corpus = prepared(path, 100_000)
    for dtype in ("uint32", "int64"):
        other = prepared(write(tmp_path / f"{dtype}.bin", tokens(), dtype), 100_000)
        assert (other.digest, content(other)) == (corpus.digest, content(corpus))
    assert corpus.split("train").dtype == "<u4"
    wide = prepared(write(tmp_path / "wide.bin", tokens(100_000), "uint32"), 100_000)
    assert wide.found == "uint32 (inferred: every second 16-bit word is at most 1)"
    assert (
        np.sort(np.concatenate([wide.split(s) for s in SPLITS])) == np.sort(tokens(100_000))
    ).all()


def test_wide_tokens_do_not_find_what_was_once_made_of_them_as_uint16(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", tokens(100_000), "uint32")
    whole = hashlib.sha256()
    for document in open_source(str(path), 100_000).documents():
        whole.update(hashlib.sha256(document).digest())
    assert prepared(path, 100_000).digest != f"sha256:{whole.hexdigest()}"


def without_meaning() -> dict[str, bytes]:
    some = tokens(50_000, 4_000)
    negative = np.where(np.arange(4_000) % 50 == 7, -100, some)
    return {
        "zeros": bytes(8_000),
        "padded with negative numbers": negative.astype("<i4").tobytes(),
        "of a larger vocabulary": tokens(100_000, 4_000).astype("<u4").tobytes(),
        "big-endian": some.astype(">u4").tobytes(),
    }


@pytest.mark.parametrize("name", without_meaning())
def test_numbers_that_may_be_of_several_kinds_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.bin").write_bytes(without_meaning()[name])
    with pytest.raises(
        UserError, match=r"the dtype of its numbers is not clear .* sidecar a.bin.json"
    ):
        prepared(tmp_path / "a.bin", 65_536)


@pytest.mark.parametrize(("dtype", "cut"), [("uint32", 2), ("int64", 4), ("uint16", 1)])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, dtype: str, cut: int) -> None:
    path = write(tmp_path / "a.bin", tokens(), dtype)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UserError, match=f"bytes; expected whole {dtype} tokens"):
        prepared(path)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (-1, "the token -1; .* none is below 0"),
        (50_000, "the token 50000; model.vocab_size is 50000:"),
    ],
)
def test_a_token_that_is_not_of_the_vocabulary_is_refused_with_its_position(
    tmp_path: Path, token: int, message: str
) -> None:
    values = tokens()
    values[31_234] = token
    path = write(tmp_path / "a.bin", values, "int64", '{"dtype": "int64"}')
    with pytest.raises(UserError, match=f"a.bin, position 31234: holds {message}"):
        prepared(path)


def test_an_outlier_does_not_make_the_numbers_unclear(tmp_path: Path) -> None:
    values = tokens(256)
    values[101] = 50_000
    with pytest.raises(UserError, match=r"position 101: holds the token 50000; .*read as uint16"):
        prepared(write(tmp_path / "a.bin", values, "uint16"), 256)


def test_weights_are_no_tokens(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + tokens().tobytes())
    with pytest.raises(UserError, match=r"is compressed \(zip\)"):
        prepared(tmp_path / "pytorch_model.bin")


def test_a_folder_of_token_files_is_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    folder.mkdir()
    write(folder / "b.BIN", tokens()[10_000:], "uint32", '{"dtype": "uint32"}')
    headed(folder / "a.bin", tokens()[:10_000], "<u2", 20240520, 1, 10_000)
    (folder / "notes.pdf").write_bytes(b"%PDF-")
    source = open_source(str(folder), 50_000)
    assert (np.frombuffer(b"".join(source.documents()), "<u2") == tokens()).all()
    assert source.found == (
        "read 2 files (.BIN 1, .bin 1); left out: .pdf 1; 1 of uint16 (llm.c's header), "
        "1 of uint32 (as its sidecar says)"
    )
    corpus = prepare(DataConfig(source=str(folder)), 50_000, 500, tmp_path / "cache")
    assert corpus.bytes_per_token("select") is None
    assert corpus.tokenizer == "none"


def test_files_of_a_folder_that_look_different_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    folder.mkdir()
    write(folder / "a.bin", tokens(), "uint16")
    write(folder / "b.bin", tokens(), "uint32")
    with pytest.raises(
        UserError, match=r"look different: .*a.bin like uint16, .*b.bin like uint32"
    ):
        open_source(str(folder), 50_000)


def test_a_sidecar_that_changes_makes_another_source(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", tokens(200), "uint32", '{"dtype": "uint32"}')
    first = prepared(path)
    (tmp_path / "a.bin.json").write_text('{"dtype": "uint16"}')
    assert prepared(path).digest != first.digest
