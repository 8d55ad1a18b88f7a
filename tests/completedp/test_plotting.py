"""Without Matplotlib a figure that is asked for is refused before anything runs."""

import sys
from pathlib import Path

import pytest

from completedp import plotting
from completedp.errors import UserError


def test_a_figure_needs_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plotting.check(tmp_path / "figure.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not plotting.available()
    plotting.check(None)
    with pytest.raises(UserError, match="Matplotlib is not installed"):
        plotting.check(tmp_path / "figure.png")


def test_a_figure_needs_a_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        plotting.check(tmp_path / "file" / "figure.png")
