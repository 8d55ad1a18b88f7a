"""The harness itself: what it plants it counts, and a case is a function of its number."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from .child import last_frame
from .damage import damaged_bytes, damaged_lines, damaged_tensors
from .documents import LAUGHS, as_json, damaged_yaml, tree_of
from .formats import FORMATS, Format
from .runner import innermost
from .samples import LLAMA, PRESET

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.fuzz.planted", str(tmp_path_factory.mktemp("planted"))]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("raises", "traceback"),
        ("prints_a_traceback", "traceback"),
        ("waits", "hang"),
        ("turns", "hang"),
        ("dies", "crash"),
        ("takes_memory", "memory"),
        ("leaves", "left over"),
        ("leaves_a_folder", "left over"),
        ("writes_over", "damaged"),
        ("removes", "damaged"),
        ("writes_half", "damaged"),
        ("says_nothing", "silence"),
        ("says_much", "long"),
        ("asks", "asked"),
        ("ends_oddly", "status"),
    ],
)
def test_what_is_planted_is_counted_in_each_case(
    planted: dict[str, Any], program: str, kind: str
) -> None:
    found = planted[program]
    assert found["cases"] == 2
    assert found["counts"].pop(kind) == 2, found
    assert set(found["counts"]) <= {"refused"}, found
    assert {fault["case"] for fault in found["faults"]} == {0, 1}


def test_a_refusal_is_no_fault_but_of_the_undamaged_sample(planted: dict[str, Any]) -> None:
    assert planted["refuses"]["counts"] == {"refused": 1}
    assert planted["refuses"]["faults"][0]["case"] == 0


def test_a_traceback_is_told_by_its_exception_and_our_last_line() -> None:
    text = (
        'Traceback (most recent call last):\n  File "/x/completedp/files.py", line 7, in read\n    y\n'
        '  File "/x/json/decoder.py", line 3, in decode\njson.decoder.JSONDecodeError: no\n'
    )
    assert last_frame(text) == "JSONDecodeError at completedp/files.py in read"


def test_a_case_is_a_function_of_its_number() -> None:
    form = FORMATS["preset"]
    samples = {"mine.yaml": PRESET.encode(), "corpus.txt": b"text", "other": b""}
    made = [form.files(samples, number) for number in range(50)]
    assert made == [form.files(samples, number) for number in range(50)]
    assert made[0] == ({"mine.yaml": PRESET.encode(), "corpus.txt": b"text"}, [])
    assert all(damaged == ["mine.yaml"] for _, damaged in made[1:])
    assert len({files["mine.yaml"] for files, _ in made}) > 45


def test_every_kind_of_damage_appears() -> None:
    yaml = [
        damaged_yaml(Random(i), tree_of({"a": {"b": 1.5, "c": [1, "x"]}, "d": "text"}))
        for i in range(2000)
    ]
    for sign in (
        "!!python/object",
        "*nothing",
        "<<:",
        "1e400",
        "NaN",
        r"\ud800",
        "[" * 20_000,
        "9" * 400,
        LAUGHS,
    ):
        assert any(sign in text for text in yaml), sign[:20]
    raw = [damaged_bytes(Random(i), b"some text\nof lines\n" * 20) for i in range(500)]
    for piece in (b"\0", b"\xff", b"\xef\xbb\xbf", b"\r\n", b"\xed\xa0\x80"):
        assert any(piece in content for content in raw), piece
    assert b"" in raw
    assert max(map(len, raw)) > 100_000


def test_documents_without_damage_are_written_as_they_were() -> None:
    assert json.loads(as_json(tree_of(LLAMA))) == LLAMA
    lines = b'{"a": 1}\n{"b": 2}\n'
    assert any(damaged_lines(Random(i), lines).startswith(b'{"a": 1}\n') for i in range(20))


def test_a_tensor_file_keeps_its_length_of_header() -> None:
    header = b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    content = len(header).to_bytes(8, "little") + header + b"\0\0\0\0"
    made = [damaged_tensors(Random(i), content) for i in range(50)]
    told = [int.from_bytes(m[:8], "little") == len(m) - 12 for m in made]
    assert sum(told) > 35


def test_a_hang_is_told_by_our_innermost_line() -> None:
    stack = (
        'Current thread 0x1 (most recent call first):\n  File "/x/yaml/loader.py", line 3 in load\n'
        '  File "/x/completedp/files.py", line 7 in read\n  File "/x/transfer/laws.py", line 9 in law\n'
    )
    assert innermost(stack) == "completedp/files.py in read"


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_every_verb_has_its_turn_in_two_hundred_cases(form: Format) -> None:
    called = [form.called(number) for number in range(1, 201)]
    for verb in form.verbs:
        assert sum(verb in verbs for verbs in called) == 200 // verb.every
    assert form.called(0) == list(form.verbs)
    # And on a damaged input among the fifty of every run of the tests.
    assert all(any(verb in verbs for verbs in called[:49]) for verb in form.verbs)
