"""README's Python runs as printed, on a shorter preset."""

import dataclasses
import re
from pathlib import Path

import pytest

from completedp import files
from completedp.lm.preset_files import load_preset

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    start = README.index("<!-- ci: python -->")
    first = re.findall(r"```python\n(.*?)```", README[start:], flags=re.DOTALL)[0]
    tiny = load_preset("tiny")
    train = dataclasses.replace(tiny.train, tokens=32_768, eval_tokens=8192)
    files.write_yaml(Path("short.yaml"), dataclasses.replace(tiny, train=train).to_dict())
    assert first.count('"tiny"') == 1
    shorter = first.replace('"tiny"', '"short.yaml"').replace("1_000_000", "100_000")
    names: dict[str, object] = {}
    exec(compile(shorter, "README.md", "exec"), names)
    assert capsys.readouterr().out.splitlines()[-1].startswith("133,504 parameters")
    assert "def " in str(names["code"])
    assert Path("mlruns/studies/study-1/recipe.yaml").exists()


def test_the_rules_alone() -> None:
    page = (Path(__file__).parents[1] / "docs" / "transfer.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- tested -->\n```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(code, "transfer.md", "exec"), {})
