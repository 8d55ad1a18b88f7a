"""A folder's files that are read, those that are left out, and sources that are refused."""

import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from completedp.config import DataConfig, ModelConfig, TrainConfig, check_together
from completedp.errors import UserError
from completedp.lm import sources
from completedp.lm.sources import open_source

from .conftest import RUN, SHAPE


def text_of(folder: Path) -> bytes:
    return b"".join(open_source(str(folder), 256).documents())


def put(folder: Path, **files: str) -> None:
    """Files by name, `__` for a slash and `_dot_` for a dot."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_folder_says_what_it_read_and_what_it_left(tmp_path: Path) -> None:
    put(
        tmp_path,
        a_dot_txt="a",
        b_dot_TXT="b",
        c_dot_json='{"text": "c"}',
        sub__d_dot_Md="d",
        e_dot_gz="x",
        f_dot_bin="xx",
        README="x",
        _dot_hidden_dot_txt="x",
        _dot_ipynb_checkpoints__a_dot_txt="x",
    )
    (tmp_path / "gone.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    assert text_of(tmp_path) == b"abcd"
    source = open_source(str(tmp_path), 256)
    assert not source.is_tokens
    assert source.found == (
        "read 4 files (.Md 1, .TXT 1, .json 1, .txt 1); left out: hidden 2, .bin 1, .gz 1, "
        "broken link 1, no ending 1, pipe, socket or device 1"
    )


def test_a_folder_of_many_endings_is_told_briefly(tmp_path: Path) -> None:
    put(tmp_path, a_dot_txt="a", **{f"x_dot_{i}": "x" for i in range(500)})
    (tmp_path / ("y." + "long" * 20)).write_text("x")
    source = open_source(str(tmp_path), 256)
    assert source.found.startswith("read 1 file (.txt 1); left out: ")
    assert source.found.endswith(", others 493")
    assert len(source.found) < 200


def test_linked_folders_are_followed_and_each_is_read_once(tmp_path: Path) -> None:
    corpus, other = tmp_path / "corpus", tmp_path / "other"
    put(corpus, z__a_dot_txt="a")
    put(other, deep__b_dot_txt="b")
    (corpus / "linked").symlink_to(other)
    (corpus / "again").symlink_to(corpus / "z")
    (other / "back").symlink_to(corpus)
    (corpus / "itself").symlink_to("itself")
    assert text_of(corpus) == b"ba"
    assert "broken link 1" in open_source(str(corpus), 256).found
    (tmp_path / "to_corpus").symlink_to(corpus)
    assert text_of(tmp_path / "to_corpus") == b"ba"


def test_a_hidden_folder_may_be_named(tmp_path: Path) -> None:
    put(tmp_path, _dot_cache__a_dot_txt="a")
    assert text_of(tmp_path / ".cache") == b"a"


def test_a_folder_without_text_says_what_it_has(tmp_path: Path) -> None:
    put(tmp_path, a_dot_gz="x", b_dot_gz="x", _dot_txt="x")
    with pytest.raises(
        UserError, match=r"no file in it ends in \.txt, .*; it has \.gz 2, hidden 1"
    ):
        open_source(str(tmp_path), 256)


def test_the_size_is_of_the_files_that_are_read(tmp_path: Path) -> None:
    put(tmp_path, a_dot_txt="abc", b_dot_TXT="de", _dot_c_dot_txt="x" * 99, d_dot_gz="x" * 99)
    assert sources.size(str(tmp_path)) == 5
    assert sources.size(str(tmp_path / "a.txt")) == 3
    assert sources.size(str(tmp_path / "gone")) == sources.size("embedded") == 0


def test_a_file_of_another_ending_is_read_as_text_and_says_so(tmp_path: Path) -> None:
    put(tmp_path, corpus="a", b_dot_log="b", c_dot_txt="c")
    for name in ("corpus", "b.log"):
        found = open_source(str(tmp_path / name), 256).found
        assert found == "read as text, because its ending is not known"
    assert open_source(str(tmp_path / "c.txt"), 256).found == ""


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match="is a named pipe, which"):
        open_source(str(tmp_path / "pipe.txt"), 256)
    with pytest.raises(UserError, match="is a device, which"):
        open_source("/dev/null", 256)
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's path is short
        try:
            server.bind("s")
        finally:
            os.chdir(here)
        with pytest.raises(UserError, match="is a socket, which"):
            open_source(str(tmp_path / "s"), 256)


@pytest.mark.parametrize(
    "name", ["a\0b", "x" * 5_000, "loop", "~nobody-of-this-name/text", "\ud800"]
)
def test_a_path_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"no such file|cannot be read"):
        open_source(name, 256)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, a_dot_txt="a")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert text_of(Path("~/a.txt")) == b"a"
    assert sources.size("~/a.txt") == 1
    assert not sources.is_gone("~/a.txt")


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for name in (b"/na\xefve.txt", b"/b.\xff\xfe"):
        with open(folder + name, "wb") as file:
            file.write(b"a")
    source = open_source(os.fsdecode(folder), 256)
    assert list(source.documents()) == [b"a"]
    source.found.encode()  # can be printed


def test_a_folder_that_cannot_be_read_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, a_dot_txt="a", locked__b_dot_txt="b")
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"locked: cannot be read \(Permission denied\)"):
        open_source(str(tmp_path), 256)


@pytest.mark.parametrize("source", ["", " ", "\n"])
def test_a_source_without_a_name_is_refused(source: str) -> None:
    with pytest.raises(UserError, match=r"data.source is .* \(an unset variable"):
        DataConfig(source=source)


def test_only_a_name_that_may_hold_tokens_may_have_any_vocabulary() -> None:
    model, train = ModelConfig(**{**SHAPE, "vocab_size": 512}), TrainConfig(**RUN)
    for source in ("tokens.bin", "tokens.BIN", "folder", "corpus.dat"):
        check_together(model, DataConfig(source=source), train)
    for source in ("embedded", "hf:x/y.bin", "a.txt", "a.TXT", "a.json", "a.parquet"):
        with pytest.raises(UserError, match="vocab_size is 512; the bytes tokenizer has exactly"):
            check_together(model, DataConfig(source=source), train)
        check_together(model, DataConfig(source=source, tokenizer="bpe"), train)


class _Rows(list[dict[str, str]]):
    _fingerprint = "f"


def fake_datasets(rows: Iterable[object]) -> ModuleType:
    module = ModuleType("datasets")

    def load_dataset(name: str, split: str, trust_remote_code: bool) -> Iterable[object]:
        assert (split, trust_remote_code) == ("train", False), "no code of a data set's is run"
        return rows

    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    return module


def test_a_data_set_is_read_without_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _Rows([{"text": "a"}, {"text": "b"}])
    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(rows))
    source = open_source("hf:some/thing", 256)
    assert b"".join(source.documents()) == b"ab"
    assert source.found == ""


def test_a_data_set_that_breaks_while_it_is_read_is_one_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(_Rows):
        def __iter__(self) -> Any:
            yield {"text": "a"}
            raise RuntimeError("a shard is damaged")

    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(Broken()))
    with pytest.raises(UserError, match="'hf:some/thing' cannot be read: a shard is damaged"):
        list(open_source("hf:some/thing", 256).documents())
