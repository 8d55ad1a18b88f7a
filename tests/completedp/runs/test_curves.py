"""A curve's file is read whole, or the line that is no point is named."""

import dataclasses
from pathlib import Path

import pytest

from completedp.errors import UserError
from completedp.runs.curves import read_curve
from completedp.runs.job import Outcome

CURVE = ((2, 3.5), (4, 3.25), (4, 3.0), (6, 2))
OUTCOME = Outcome(
    trial=7, status="stopped", loss=None, steps=6, tokens=6, seconds=1.0, seed=0, curve=CURVE
)


def written(folder: Path, text: str) -> Path:
    path = folder / "7.jsonl"
    path.write_text(text)
    return path


def lines(*points: str) -> str:
    return "".join(f"{point}\n" for point in points)


GOOD = '{"step": 2, "loss": 3.5}'


def test_a_curve_is_what_was_written(tmp_path: Path) -> None:
    from completedp.runs.curves import write_curve

    assert read_curve(tmp_path, 7) == ()
    write_curve(tmp_path, OUTCOME)
    assert read_curve(tmp_path, 7) == CURVE
    write_curve(tmp_path, dataclasses.replace(OUTCOME, curve=()))
    assert read_curve(tmp_path, 7) == ()


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    written(tmp_path, lines(GOOD) + '{"step": 4, "lo')
    assert read_curve(tmp_path, 7) == ((2, 3.5),)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "not JSON"),
        ("[" * 20_000, "levels deep"),
        ("3", "3; expected an object with step and loss"),
        ('{"step": 4}', "expected an object with step and loss"),
        ('{"step": 4, "loss": 1, "x": 1}', "expected an object with step and loss"),
        ('{"step": 1, "loss": 1.0}', "1; expected a step of 2 or later"),
        ('{"step": "4", "loss": 1.0}', "'4'; expected a step of 2 or later"),
        ('{"step": 4.0, "loss": 1.0}', "4.0; expected a step"),
        ('{"step": 4, "loss": "low"}', "'low'; expected a finite loss"),
        ('{"step": 4, "loss": null}', "None; expected a finite loss"),
        ('{"step": 4, "loss": 1e400}', "beyond every float"),
        ('{"step": 4, "loss": NaN}', "NaN is no number"),
        ('{"step": 1' + "0" * 400 + ', "loss": 1}', "a whole number of 401 digits"),
    ],
)
def test_what_is_no_point_is_named_by_its_line(tmp_path: Path, line: str, said: str) -> None:
    path = written(tmp_path, lines(GOOD, line, GOOD))
    with pytest.raises(UserError) as refused:
        read_curve(tmp_path, 7)
    message = str(refused.value)
    assert message.startswith(f"{path}, line 2: ")
    assert said in message
    assert message.endswith("; remove the file: with it only this curve is lost")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "7.jsonl").mkdir()
    with pytest.raises(UserError, match=r"7\.jsonl: cannot be read"):
        read_curve(tmp_path, 7)
    (tmp_path / "8.jsonl").symlink_to("8.jsonl")
    with pytest.raises(UserError, match=r"8\.jsonl: cannot be read"):
        read_curve(tmp_path, 8)
    (tmp_path / "9.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match=r"9\.jsonl, line 1: not UTF-8"):
        read_curve(tmp_path, 9)
