"""Sources, splits, the cache, and windows."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from completedp.config import DataConfig
from completedp.errors import UserError
from completedp.lm import data as module
from completedp.lm import sources
from completedp.lm.data import SPLITS, Corpus, TrainBatches, eval_windows, prepare
from completedp.lm.sources import open_source

from .conftest import words


def from_text(path: Path, text: str | bytes, eval_tokens: int = 100) -> Corpus:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return prepare(DataConfig(source=str(path)), 256, eval_tokens, path.parent / "cache")


def documents(corpus: Corpus, split: str) -> list[bytes]:
    assert split in SPLITS
    tokens = corpus.split(split)
    return bytes(tokens.astype(np.uint8)).split(b"\0")[:-1]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 50), st.integers(2_000, 60_000), st.integers(1, 4))
@example(seed=5, size=2610, copies=2)  # blocks so short that some are equal by chance
def test_splits_hold_every_document_once_and_never_share_one(
    tmp_path_factory: pytest.TempPathFactory, seed: int, size: int, copies: int
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    text = folder / "text"
    text.mkdir()
    for i in range(30):
        # Every document exists `copies` times, under different names.
        (text / f"{i}.txt").write_text(words(seed * 100 + i // copies, size // 30))
    corpus = prepare(DataConfig(source=str(text)), 256, 50, folder / "cache")
    found = {split: documents(corpus, split) for split in SPLITS}
    everything = sorted(d for split in SPLITS for d in found[split])
    assert everything == sorted(open_source(str(text), 256).documents())
    for a, b in (("train", "select"), ("train", "report"), ("select", "report")):
        assert not set(found[a]) & set(found[b])
    for split in SPLITS:
        assert corpus.tokens(split) == len(corpus.split(split)) > 50
    # A share counts all copies. The last document may exceed the share, together with its copies.
    total = sum(map(len, everything))
    longest = max(len(document) * times for document, times in Counter(everything).items())
    for split in ("select", "report"):
        assert sum(map(len, found[split])) <= max(0.05 * total, 52) + longest


def test_a_single_file_is_cut_at_paragraphs_and_held_out_by_a_twentieth(text_file: Path) -> None:
    corpus = prepare(DataConfig(source=str(text_file)), 256, 64, text_file.parent / "single")
    pieces = list(open_source(str(text_file), 256).documents())
    assert b"".join(pieces) == text_file.read_bytes()
    assert len(pieces) > 150
    assert sum(piece.endswith(b"\n") for piece in pieces) >= len(pieces) - 1
    total = sum(corpus.tokens(split) for split in SPLITS)
    for split in ("select", "report"):
        assert 0.05 < corpus.tokens(split) / total < 0.07
    assert corpus.bytes_per_token("train") == pytest.approx(1, abs=0.01)


def test_text_without_line_ends_is_cut_between_characters(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    text = "a" + "é" * 5_000  # blocks of an even size would end inside a character
    path.write_text(text)
    pieces = list(open_source(str(path), 256).documents())
    assert "".join(piece.decode() for piece in pieces) == text


def test_a_corpus_is_prepared_once_and_anew_when_its_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    first = from_text(path, words(0, 20_000))
    again = prepare(DataConfig(source=str(path)), 256, 100, tmp_path / "cache")
    assert again == first
    changed = from_text(path, words(1, 20_000))
    assert changed.folder != first.folder
    assert changed.digest != first.digest
    folders = {p.name for p in (tmp_path / "cache").iterdir() if p.is_dir()}
    assert folders == {first.folder.name, changed.folder.name}
    path.touch()
    assert prepare(DataConfig(source=str(path)), 256, 100, tmp_path / "cache") == changed


def test_a_digest_names_a_corpus_whatever_its_source_holds_by_now(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    first = from_text(path, words(0, 20_000))
    from_text(path, words(1, 20_000))
    data, cache = DataConfig(source=str(path)), tmp_path / "cache"
    assert prepare(data, 256, 100, cache, first.digest) == first
    path.unlink()
    assert prepare(data, 256, 100, cache, first.digest) == first
    from_text(path, words(2, 20_000))
    with pytest.raises(UserError, match="has changed: its digest is"):
        prepare(data, 256, 120, cache, first.digest)  # not prepared for this length


def test_what_is_kept_says_so(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    first = from_text(path, words(0, 20_000))
    data, cache = DataConfig(source=str(path)), tmp_path / "cache"
    assert first.found == ""
    assert first.summary("t.txt").startswith("t.txt, bytes tokenizer; tokens: train ")
    again = prepare(data, 256, 100, cache, first.digest)
    assert again.found == f"as prepared before ({first.digest[:19]})"
    path.unlink()
    again = prepare(data, 256, 100, cache, first.digest)
    assert again.found == f"as prepared before, because its source is gone ({first.digest[:19]})"
    assert again.summary("t.txt").startswith(
        "t.txt: as prepared before, because its source is gone"
    )
    with pytest.raises(UserError, match=r"no such file .*; .*cache has no prepared corpus sha"):
        prepare(data, 256, 120, cache, first.digest)
    with pytest.raises(UserError, match="no such file"):
        prepare(data, 256, 100, cache)


def test_a_folder_of_tokens_is_found_by_its_digest_too(tmp_path: Path) -> None:
    folder, cache = tmp_path / "tokens", tmp_path / "cache"
    folder.mkdir()
    tokens = np.random.default_rng(0).integers(0, 500, 50_000)
    (folder / "a.bin").write_bytes(tokens.astype("<u2").tobytes())
    data = DataConfig(source=str(folder))
    first = prepare(data, 500, 100, cache)
    (folder / "a.bin").unlink()
    folder.rmdir()
    assert prepare(data, 500, 100, cache, first.digest) == first


def test_a_folder_of_text_wants_the_tokenizers_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(words(0, 20_000))
    data = DataConfig(source=str(tmp_path / "text"))
    with pytest.raises(
        UserError, match=r"model.vocab_size is 512; the bytes tokenizer has exactly"
    ):
        prepare(data, 512, 100, tmp_path / "cache")


def test_what_was_once_read_in_another_way_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows were text to the first version, and what it noted of their file must not be believed."""
    path = tmp_path / "a.json"
    path.write_text("".join(json.dumps({"text": words(i, 300)}) + "\n" for i in range(60)))
    with monkeypatch.context() as patched:
        patched.setattr(sources, "format_of", lambda _: "text")
        as_text = prepare(DataConfig(source=str(path)), 256, 100, tmp_path / "cache")
    assert prepare(DataConfig(source=str(path)), 256, 100, tmp_path / "cache") != as_text


def change(folder: Path, **values: object) -> None:
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no JSON": lambda folder: (folder / "meta.json").write_text("{"),
    "not UTF-8": lambda folder: (folder / "meta.json").write_bytes(b"\xff"),
    "no meta": lambda folder: (folder / "meta.json").unlink(),
    "a list": lambda folder: (folder / "meta.json").write_text("[]"),
    "no splits": lambda folder: change(folder, splits=None),
    "splits of a list": lambda folder: change(folder, splits=[1, 2, 3]),
    "no counts": lambda folder: change(folder, splits={s: {"tokens": "9"} for s in SPLITS}),
    "negative": lambda folder: change(folder, splits={s: {"tokens": -9} for s in SPLITS}),
    "dtype": lambda folder: change(folder, dtype="<f8"),
    "another digest": lambda folder: change(folder, digest="sha256:0"),
    "digest of a number": lambda folder: change(folder, digest=1),
    "a short split": lambda folder: (folder / "report.bin").write_bytes(b"ab"),
    "no split": lambda folder: (folder / "train.bin").unlink(),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_corpus_is_refused_with_its_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.txt"
    corpus = from_text(path, words(0, 20_000))
    data, cache = DataConfig(source=str(path)), tmp_path / "cache"
    digests = (None, corpus.digest)
    DAMAGES[name](corpus.folder)
    for digest in digests:
        with pytest.raises(UserError, match=r"a damaged corpus .*; remove the folder") as raised:
            prepare(data, 256, 100, cache, digest)
        assert str(raised.value).startswith(str(corpus.folder))
    shutil.rmtree(corpus.folder)
    assert prepare(data, 256, 100, cache).tokens("train") > 100


@pytest.mark.parametrize("note", [b"", b"\xff\0", b"sha256:0", b"../..", b"x" * 10_000])
def test_a_damaged_note_of_a_digest_does_no_harm(tmp_path: Path, note: bytes) -> None:
    corpus = from_text(tmp_path / "t.txt", words(0, 20_000))
    (known,) = (tmp_path / "cache").glob("*.digest")
    known.write_bytes(note)
    data = DataConfig(source=str(tmp_path / "t.txt"))
    assert prepare(data, 256, 100, tmp_path / "cache") == corpus
    assert known.read_text() == corpus.digest


def test_a_note_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    corpus = from_text(tmp_path / "t.txt", words(0, 20_000))
    (known,) = (tmp_path / "cache").glob("*.digest")
    known.unlink()
    known.mkdir()
    data = DataConfig(source=str(tmp_path / "t.txt"))
    assert prepare(data, 256, 100, tmp_path / "cache") == corpus


def test_a_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        UserError, match=r"cannot be written \(No space left on device\); make room"
    ):
        from_text(tmp_path / "t.txt", words(0, 20_000))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text(words(0, 20_000))
    source = open_source(str(path), 256)
    split_of, _ = module._assign(source, 100, np.dtype("<u2"))
    path.write_text(words(1, 20_000))
    with pytest.raises(UserError, match=r"t.txt' changed while it was read; start again"):
        list(module._documents(source, split_of, "train", module._Split(0, 0)))


def test_the_digest_is_of_the_text(tmp_path: Path) -> None:
    text = words(0, 20_000)
    corpus = from_text(tmp_path / "a.txt", text)
    assert from_text(tmp_path / "b.txt", text).digest == corpus.digest
    whole = hashlib.sha256()
    for document in open_source(str(tmp_path / "a.txt"), 256).documents():
        whole.update(hashlib.sha256(document).digest())
    assert corpus.digest == f"sha256:{whole.hexdigest()}"


def test_another_process_may_be_first(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, others = DataConfig(source=str(text_file)), []
    build = module._build

    def slow_build(*arguments: Any) -> None:
        build(*arguments)
        monkeypatch.setattr(module, "_build", build)
        others.append(prepare(data, 256, 100, tmp_path))

    monkeypatch.setattr(module, "_build", slow_build)
    assert [prepare(data, 256, 100, tmp_path)] == others
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == [others[0].folder]


def test_the_embedded_corpus(tmp_path: Path) -> None:
    text = list(open_source("embedded", 256).documents())
    assert sum(b"class JSONDecoder(" in piece for piece in text) == 1
    assert not [piece for piece in text if b"class TestDump(" in piece], "no test packages"
    corpus = prepare(DataConfig(), 256, 65_536, tmp_path)
    assert corpus.tokens("train") > 5_000_000
    assert corpus.tokens("select") > 65_536
    assert prepare(DataConfig(), 256, 65_536, tmp_path) == corpus


def jsonl(path: Path) -> None:
    lines = [json.dumps({"text": words(i, 300), "id": i}) for i in range(60)]
    path.write_text("\n".join(lines) + "\n")


def parquet(path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet_module = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"text": [words(i, 300) for i in range(60)], "id": list(range(60))})
    parquet_module.write_table(table, path)


@pytest.mark.parametrize(("name", "write"), [("a.jsonl", jsonl), ("a.parquet", parquet)])
def test_rows_of_text(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    found = b"".join(open_source(str(tmp_path / name), 256).documents())
    assert found == "".join(words(i, 300) for i in range(60)).encode()
    assert prepare(DataConfig(source=str(tmp_path / name)), 256, 100, tmp_path / "c").tokens(
        "train"
    )


def test_bin_files_hold_tokens_and_know_no_bytes(tmp_path: Path) -> None:
    path = tmp_path / "tokens.bin"
    tokens = np.random.default_rng(0).integers(0, 1000, 50_000).astype("<u2")
    path.write_bytes(tokens.tobytes())
    corpus = prepare(DataConfig(source=str(path)), 1000, 500, tmp_path / "cache")
    assert sum(corpus.tokens(split) for split in SPLITS) == 50_000
    found = np.concatenate([corpus.split(split) for split in SPLITS])
    assert (np.sort(found) == np.sort(tokens)).all()
    assert corpus.bytes_per_token("select") is None
    with pytest.raises(UserError, match=r"holds the token 99\d; model.vocab_size is 900"):
        prepare(DataConfig(source=str(path)), 900, 500, tmp_path / "cache")


def test_byte_pairs_are_trained_on_the_train_split(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text(words(0, 60_000))
    data = DataConfig(source=str(path), tokenizer="bpe")
    corpus = prepare(data, 300, 100, tmp_path / "cache")
    library = pytest.importorskip("tokenizers")
    tokenizer = library.Tokenizer.from_file(str(corpus.folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 300
    decoded = tokenizer.decode(corpus.split("select").tolist(), skip_special_tokens=True)
    per_token = corpus.bytes_per_token("select")
    assert per_token is not None
    assert len(decoded.encode()) == round(per_token * corpus.tokens("select"))
    assert per_token > 1.2
    assert prepare(data, 300, 100, tmp_path / "cache2").digest == corpus.digest
    with pytest.raises(
        UserError, match=r"vocab_size is 200; data.tokenizer: bpe needs 257 or more"
    ):
        prepare(data, 200, 100, tmp_path / "cache")
    with pytest.raises(UserError, match="asks for 5000"):
        prepare(data, 5000, 100, tmp_path / "cache")


BAD: dict[str, tuple[bytes, str]] = {
    "empty.txt": (b"", r"too short: 0 tokens found .* train.eval_tokens = 100 needs more"),
    "short.txt": (b"abc\n" * 20, r"too short: \d+ tokens found"),
    "nul.txt": (b"abc\0def" * 100, "NUL bytes at 3"),
    "latin.txt": (b"abc\xe9 " * 100, "not UTF-8 at byte 3"),
    "bad.jsonl": (
        b'{"text": "a"}\n{"text": 1}\n',
        'line 2: expected an object with a string .* "text"',
    ),
    "torn.jsonl": (b'{"text": "a"}\n{"te', "line 2: expected an object"),
    "odd.bin": (b"abc", "3 bytes; expected whole uint16 tokens"),
    "bad.parquet": (b"PAR?", "not a readable parquet file"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_a_corpus_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match=message):
        from_text(tmp_path / name, content)
    assert list(tmp_path.glob("cache/*")) == []


def test_a_source_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        open_source(str(tmp_path / "gone.txt"), 256)
    with pytest.raises(UserError, match=r"no file in it ends in \.txt"):
        open_source(str(tmp_path), 256)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        open_source("hf:some/thing", 256)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        from_text(tmp_path / "t.txt", words(0, 9_000)) and prepare(
            DataConfig(source=str(tmp_path / "t.txt")), 256, 100, tmp_path / "file" / "cache"
        )


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 7), st.integers(20, 200), st.integers(0, 3))
def test_an_epoch_sees_every_window_once(
    context: int, sequences: int, size: int, seed: int
) -> None:
    batches = TrainBatches(np.arange(size), context, sequences, seed)
    steps = 3 * batches.windows // sequences + 1
    seen = np.concatenate([batches.at(step)[:, 0] for step in range(steps)])
    assert all((np.diff(batches.at(step), axis=1) == 1).all() for step in range(steps))
    for epoch in range(len(seen) // batches.windows):
        part = seen[epoch * batches.windows : (epoch + 1) * batches.windows]
        assert sorted(part) == list(range(0, batches.windows * context, context))
    fresh = TrainBatches(np.arange(size), context, sequences, seed)
    assert (fresh.at(steps - 1) == batches.at(steps - 1)).all(), "a function of the step alone"


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    orders = [
        TrainBatches(np.arange(201), 2, 100, seed).at(step)[:, 0].tolist()
        for seed in (0, 1)
        for step in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 500))
def test_evaluation_windows_spread_and_do_not_overlap(context: int, count: int, more: int) -> None:
    tokens = np.arange(context * count + 1 + more)
    windows = eval_windows(tokens, context, context * count)
    assert windows.shape == (count, context + 1)
    assert (np.diff(windows[:, 0]) >= context).all()
    assert windows[0, 0] == 0
    assert count == 1 or windows[-1, -1] == len(tokens) - 1


def test_tokens_that_no_vocabulary_has_are_named_before_they_are_trained_on(tmp_path: Path) -> None:
    corpus = from_text(tmp_path / "text.txt", words(1, 9_000))
    corpus.check(eval_windows(corpus.split("train"), 16, 160))
    tokens = np.fromfile(corpus.folder / "train.bin", "<u2")
    tokens[::7] = 9_999
    tokens.tofile(corpus.folder / "train.bin")
    with pytest.raises(UserError, match=r"a damaged corpus .it holds the token 9999"):
        corpus.check(eval_windows(corpus.split("train"), 16, 160))
