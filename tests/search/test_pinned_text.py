"""A search trains on the text that its journal names, from the first trial on."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from completedp.cli.app import app
from completedp.errors import UserError
from completedp.runs.journal import read_records
from search import study_run


def test_a_fresh_search_pins_its_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def job(*_: Any, **keywords: Any) -> Any:
        asked.append(keywords)
        raise UserError("seen enough")

    monkeypatch.setattr(study_run, "language_model_job", job)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(f"line {i} of {i * i % 97} words\n" for i in range(40_000)))
    arguments = ["--preset", "tiny", "--data", str(corpus), "--device", "cpu", "--yes"]
    CliRunner().invoke(
        app, ["search", "--budget", "12", "--root", str(tmp_path / "root"), *arguments]
    )
    (journal,) = tmp_path.glob("root/studies/*/journal.jsonl")
    assert asked[0]["digest"] == read_records(journal)[0]["data"]["digest"] is not None
