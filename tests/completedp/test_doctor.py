"""`doctor` on a healthy machine and on broken ones."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from completedp import doctor
from completedp.cli.app import app
from completedp.runs.journal import Journal


def found(check: Any, root: Path) -> dict[str, doctor.Finding]:
    return {finding.subject: finding for finding in check(root)}


def test_a_healthy_machine(tmp_path: Path) -> None:
    root = tmp_path / "not yet"
    ended = CliRunner().invoke(app, ["doctor", "--root", str(root), "--json"])
    findings = {f["what"]: f for f in json.loads(ended.stdout)}
    assert ended.exit_code == 0
    assert {f["state"] for f in findings.values()} == {"ok"}
    assert {"torch", "root", "cpu", "training", "mlflow"} <= findings.keys()
    assert findings["training"]["said"] == "two workers trained 8 steps to the same bit"
    assert not root.exists()


def test_a_version_that_does_not_fit_and_one_that_is_absent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "mlflow":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0" if name == "torch" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    findings = found(doctor._packages, tmp_path)
    assert (findings["torch"].state, findings["mlflow"].state) == ("fault", "fault")
    assert findings["torch"].message.startswith("1.0; python -m pip install 'torch")
    assert findings["mlflow"].message.startswith("absent; ")
    assert findings["numpy"].state == "ok"
    assert "ray" not in findings  # an extra


def test_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    findings = found(doctor._packages, tmp_path)
    assert findings["completedp"].state == "note"
    assert "pip install -e ." in findings["completedp"].message


@pytest.mark.parametrize(("compiled", "state"), [(2.7501, "ok"), (2.772, "fault")])
def test_compiled_code_that_trains_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiled: float, state: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr(doctor, "_losses", lambda device, kinds: [2.75, compiled])
    finding = found(doctor._compiled, tmp_path)["compiled on cuda:0"]
    assert finding.state == state
    assert state == "ok" or "train.compile to false" in finding.message


def test_roots_that_are_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert found(doctor._root, file / "root")["root"].state == "fault"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 2**20))  # type: ignore[attr-defined]
    assert "1 MiB free; make room" in found(doctor._root, tmp_path)["root"].message
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    finding = found(doctor._root, tmp_path)["root"]
    assert finding.state == "fault"
    assert "has no locks" in finding.message


def test_studies_that_are_open_torn_done_and_damaged(tmp_path: Path) -> None:
    for name in ("open", "torn", "done", "damaged"):
        path = tmp_path / "studies" / name / "journal.jsonl"
        with Journal.create(path, {}) as journal:
            trial = {"trial": 0, "values": {}, "phase": "global", "seed": 1}
            journal.append({"event": "proposed", **trial})
            if name == "done":
                journal.append({"event": "set_aside", "trial": 0, "reason": "died"})
                journal.append({"event": "done"})
        if name == "torn":
            path.write_bytes(path.read_bytes() + b'{"event": "fin')
        if name == "damaged":
            path.write_bytes(path.read_bytes() + b"not JSON\n")
    findings = found(doctor._studies, tmp_path)
    states = {what.removeprefix("study "): finding.state for what, finding in findings.items()}
    assert states == {"open": "note", "torn": "note", "done": "ok", "damaged": "fault"}
    assert "completedp search --resume open" in findings["study open"].message
    assert "torn" in findings["study torn"].message
    assert findings["study done"].message == "done, 1 runs ended"


def test_a_database_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_training", lambda _: iter(()))  # seconds of two workers
    (tmp_path / "mlflow.db").write_text("not a database, and long enough to have a header")
    assert found(doctor._mlflow, tmp_path)["mlflow"].state == "fault"
    ended = CliRunner().invoke(app, ["doctor", "--root", str(tmp_path)])
    assert ended.exit_code == 1
    assert "fault  mlflow:" in ended.stdout
