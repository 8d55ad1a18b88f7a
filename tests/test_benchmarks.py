"""The index of benchmarks names every script and result, and its commands are understood."""

import json
import re
import runpy
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
BENCHMARKS = REPOSITORY / "benchmarks"
INDEX = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in INDEX.split("## Renamed and removed")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| question")
]
COMMANDS = [row[1].strip("`") for row in ROWS]
NAMED = {word for one in COMMANDS for word in one.split() if word.startswith("benchmarks/")}
SCRIPTS = sorted(
    path for path in BENCHMARKS.glob("*/*.py") if '__name__ == "__main__"' in path.read_text()
)


def commands_of(script: Path) -> Iterator[list[str]]:
    """The words of each command in the index, up to a `--` that another command follows."""
    for one in COMMANDS:
        words = one.split(" -- ")[0].split()
        if str(script.relative_to(REPOSITORY)) in words:
            yield words


def run(script: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    monkeypatch.syspath_prepend(str(REPOSITORY))
    runpy.run_path(str(script), run_name="__main__")


def test_every_row_has_a_question_a_command_a_result_and_an_entry() -> None:
    assert {len(row) for row in ROWS} == {4}
    assert all(row[0].endswith("?") for row in ROWS)


def test_the_index_names_every_script() -> None:
    scripts = {str(path.relative_to(REPOSITORY)) for path in SCRIPTS}
    assert {name for name in NAMED if name.endswith(".py")} == scripts


def test_the_index_names_every_result_file() -> None:
    patterns = re.findall(r"`([\w*/]+\.json)`", INDEX)
    results = set((BENCHMARKS / "results").rglob("*.json"))
    assert results <= {path for one in patterns for path in (BENCHMARKS / "results").glob(one)}


def test_every_entry_is_in_the_log() -> None:
    log = (REPOSITORY / "docs" / "log.md").read_text(encoding="utf-8")
    entries = {entry for row in ROWS for entry in row[3].split("<br>") if entry}
    assert len(entries) > 30
    assert {entry for entry in entries if f"## {entry}\n" not in log} == set()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")  # of the packages that a script imports
def test_help(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(script, monkeypatch, "--help")
    assert end.value.code == 0
    said = capsys.readouterr().out
    question, *_ = script.read_text(encoding="utf-8").splitlines()
    assert question.strip('"') in said
    options = {word for one in commands_of(script) for word in one if word.startswith("--")}
    assert {
        option for option in options if f"{option} " not in said and f"{option}\n" not in said
    } == set()


def test_the_gain_of_the_default_is_computed_from_recorded_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "gain.json"
    run(BENCHMARKS / "search" / "gain.py", monkeypatch, "--recorded", "--out", str(out))
    made = json.loads(out.read_text())
    assert made["command"] == "python benchmarks/search/gain.py --recorded --out <gain.json>"
    kept = json.loads((BENCHMARKS / "results" / "gain_of_default.json").read_text())
    assert len(made["rows"]) == len(kept["rows"])
    for ours, theirs in zip(made["rows"], kept["rows"], strict=True):
        shared = {name: ours[name] for name in theirs}
        assert shared == {name: pytest.approx(value) for name, value in theirs.items()}


@pytest.mark.parametrize(
    ("losses", "place"),
    [
        ([2.0, 2.0, 2.0], 0),  # there before the first trial
        ([2.0, 1.0, 1.0], 0),
        ([3.0, 1.0, 1.0], 5),
        ([3.0, 3.0, 2.0], 30),
        ([3.0, 2.5, 2.1], None),
    ],
)
def test_trials_to_a_loss(
    losses: list[float], place: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY))
    strategies = runpy.run_path(str(BENCHMARKS / "search" / "strategies.py"))
    assert strategies["crossing"]([0, 10, 30], losses, 2.0) == place


class TestArms:
    """`transfer/arms.py` from losses to rows."""

    @pytest.fixture
    def arms(self, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
        monkeypatch.syspath_prepend(str(REPOSITORY))
        return runpy.run_path(str(BENCHMARKS / "transfer" / "arms.py"))

    def test_a_factor_with_a_diverged_seed_is_nobodys_best(self, arms: Mapping[str, Any]) -> None:
        losses = {
            ("1", "baseline"): {1: 2.0, 2: 2.2},
            ("1", "tuned"): {1: 1.9, 2: 2.0},
            ("2", "baseline"): {1: 1.0},
            ("2", "tuned"): {1: 1.8, 2: 1.9},
        }
        found = arms["best_factors"]([arms["row"](name, losses) for name in ("1", "2")])
        assert found["best_factor"] == {"baseline": "1", "tuned": "2"}
        assert found["gain_at_both"]["mean"] == pytest.approx(-0.25)

    def test_an_arm_without_losses_has_no_mean(self, arms: Mapping[str, Any]) -> None:
        row = arms["row"]("mup", {("mup", "tuned"): {1: 1.0}})
        assert row["mean"] == {"baseline": None, "tuned": 1.0}
        assert row["difference"] is None

    def test_the_flops_saved_are_where_the_losses_cross(self, arms: Mapping[str, Any]) -> None:
        seeds = (1, 2, 3)
        losses = {("1", "baseline"): dict.fromkeys(seeds, 2.0)}
        losses |= {
            (name, "tuned"): {s: loss + s / 1000 for s in seeds}
            for name, loss in {"0.5": 2.4, "0.8": 1.998, "1": 1.9}.items()
        }
        rows = [arms["row"](name, losses) for name in ("0.5", "0.8", "1")]
        assert arms["flops_saved"](rows)["flops_saved_percent"]["factor"] == pytest.approx(20)
