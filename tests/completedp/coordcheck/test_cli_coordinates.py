"""`completedp coordcheck`: exit status, document, figure."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from completedp.cli.app import app
from completedp.errors import UserError

SMALL = ("--ratios", "1,4", "--steps", "2", "--axis", "depth")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


def coordcheck(preset: Path, root: Path, *arguments: str) -> Result:
    own = ["--preset", str(preset), "--root", str(root)]
    return CliRunner().invoke(app, ["coordcheck", *SMALL, *arguments, *own])


def test_a_pass_is_0_with_every_number_written(preset: Path, root: Path, tmp_path: Path) -> None:
    out, figure = tmp_path / "check.json", tmp_path / "check.png"
    done = coordcheck(preset, root, "--out", str(out), "--figure", str(figure))
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1].startswith("passes")
    assert "update over depth" in done.stdout
    written = json.loads(out.read_text())
    assert written["passes"]
    assert written["options"] == {"beta_rule": "power"}
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_failure_is_1_and_named(preset: Path, root: Path) -> None:
    done = coordcheck(preset, root, "--parameterization", "sp", "--json")
    assert done.exit_code == 1
    first = json.loads(done.stdout)["failures"][0]
    assert first["axis"] == "depth"
    assert first["quantity"] in ("output", "update", "change")
    done = coordcheck(preset, root, "--parameterization", "sp")
    assert f"fails: {first['quantity']} of {first['module']} {first['place']}" in done.stdout


def test_places_that_cannot_be_written_are_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for option in ("--out", "--figure"):
        ended = CliRunner().invoke(app, ["coordcheck", option, str(tmp_path / "file" / "x")])
        assert isinstance(ended.exception, UserError)
        assert "cannot be written" in str(ended.exception)
        assert ended.stdout == ""
