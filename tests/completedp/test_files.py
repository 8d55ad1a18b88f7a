"""The YAML border: what is no value is a user's mistake, and what is written is read back."""

import errno
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from completedp import files
from completedp.errors import UserError
from completedp.recipe import Recipe

BAD = {
    "{{x}}: 1": "line 1: a key is",
    "a: {{x}}": "line 1: a key is",
    "a:\n  ? [1, 2]\n  : 3": "line 2: a key is",
    "a: 1\nb: 2\na: 3": "line 3: the key 'a' is given twice",
    "a: " + "9" * 5000: "not valid YAML",
    "a: &x [*x]": "not valid YAML",
    "a: &x {b: *x}": "not valid YAML",
    "a: " + "[" * 2000 + "]" * 2000: "not valid YAML",
    "a: " + "[" * 20_000: "not valid YAML",
    "a: &x " + "k" * 100_000 + "\nb: {*x : 1, *x : 2}": "the key 'kkk",
    "a: !!timestamp soon": "not valid YAML",
    "a: !!int soon": "not valid YAML",
    "a: !!bool soon": "not valid YAML",
    "- a": "expected a mapping",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_what_is_no_mapping_of_values_is_refused_by_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"file\.yaml: ") as caught:
        files.read_yaml(path)
    assert BAD[text] in str(caught.value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("0x" + "f" * 5000, "model.width is a whole number of 20000 bits"),
        ("-0x" + "f" * 300, "model.width is a whole number of 1200 bits"),
        (".inf", "model.width is inf"),
        ("2026-13-45", "model.width is '2026-13-45'"),
        ("[" * 50 + "]" * 50, "model.width is [["),
        ("[" * 150 + "]" * 150, "more than 60 levels deep"),
        ("[" * 240 + "]" * 240, "file.yaml"),
        ("!!binary aGk=", "file.yaml"),
        ("!!set {a, b}", "file.yaml"),
    ],
)
def test_what_is_no_value_is_refused_by_path(tmp_path: Path, value: str, says: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(f"model: {{width: {value}}}")
    with pytest.raises(UserError, match=r"file\.yaml: ") as caught:
        Recipe.read(path)
    assert says in str(caught.value)


def test_numbers_and_dates_as_people_mean_them(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(
        "a: 3e-4\nb: 1e5\nc: 2026-13-45\nd: 2026-11-20\ne: &x [1]\nf: *x\n"
        "g: 010\nh: 1:30\ni: [0, -7, 1_000, 0x1f]\nj: [1.5, -.5e3, 2., .inf]"
    )
    expected = {"a": 3e-4, "b": 1e5, "c": "2026-13-45", "d": "2026-11-20", "e": [1], "f": [1]}
    expected |= {"g": "010", "h": "1:30", "i": [0, -7, 1000, 31], "j": [1.5, -500.0, 2.0, math.inf]}
    assert files.read_yaml(path) == expected


def test_a_merge_key_brings_what_is_not_given(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: {<<: [*x, {r: 4}]}")
    read = files.read_yaml(path)
    assert read["b"] == {"p": 1, "q": 3}
    assert read["c"] == {"p": 1, "q": 2, "r": 4}


def test_aliases_that_grow_into_billions_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    lines = ["a0: &a0 [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    path.write_text("\n".join(lines))
    began = time.perf_counter()
    with pytest.raises(UserError, match="values; expected at most 1,000,000"):
        files.read_yaml(path)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("length", [100, 100_000])
def test_messages_stay_short_whatever_the_file_holds(tmp_path: Path, length: int) -> None:
    path = tmp_path / "file.yaml"
    for text in (
        f"model: {{{'k' * length}: 1}}",
        f"model: {'v' * length}",
        f"schema: [{'1, ' * length}]",
        f"parameterization: {'p' * length}",
        "\n".join(f"key{i}: 1" for i in range(length)),
    ):
        path.write_text(text)
        with pytest.raises(UserError) as caught:
            Recipe.read(path)
        assert len(str(caught.value)) < 2500


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C"]))
    | st.from_regex(r"[-+.0-9e_:T ]{1,12}", fullmatch=True)
    | st.sampled_from(
        ["3e-4", "1e5", ".5e3", "-1E+2", "1.5", "2026-11-20", "yes", "0x1f", "1:30", "010"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc3e-"), inner, max_size=3)
    ),
)


@given(st.dictionaries(st.text("abc.e19-"), values, max_size=4))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    files.write_yaml(path, data)
    read = files.read_yaml(path)
    assert read == data
    assert repr(read) == repr(data), "types too"


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "make room, then go on"), (errno.EROFS, "give another place")],
)
def test_what_cannot_be_written_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    """And leaves what was there."""
    path = tmp_path / "recipe.yaml"
    files.write_text(path, "before")

    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=says):
        files.write_text(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
