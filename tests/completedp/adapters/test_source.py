"""Model families by their name on the command line, and `completedp inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from external_models import config
from typer.testing import CliRunner

from completedp.adapters.source import source_of
from completedp.cli.app import app
from completedp.errors import UserError

MODULE = """
from torch import nn

class Layer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.fc1 = nn.Linear(width, 2 * width, bias=False)
        self.fc2 = nn.Linear(2 * width, width, bias=False)

class Model(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=False)
        self.lm_head = nn.Linear(width, 11, bias=False)

def make(width, depth):
    return Model(width, depth)

def wrong(width):
    return Model(width, 1)

def number(width, depth):
    return 3

def asserting(width, depth):
    assert width == 3, "no such width"

constant = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "users_model.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    return tmp_path


def test_a_factory_is_called_with_width_and_depth(folder: Path) -> None:
    source = source_of("users_model:make")
    assert source.own is None
    model = source.build(width=8, depth=3)
    assert next(model.parameters()).is_meta
    assert len(model.layers) == 3  # type: ignore[arg-type]
    assert not next(source.build(8, 1, device="cpu").parameters()).is_meta


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("users_model", "expected hf:CONFIG.json, or package.module:factory"),
        ("nowhere_at_all:make", "No module named 'nowhere_at_all'"),
        ("users_model:gone", "has no attribute 'gone'"),
        ("users_model:constant", "constant is int; expected a function"),
        ("hf:nowhere.json", "nowhere.json: no such file"),
    ],
)
def test_names_of_no_family_are_refused(folder: Path, name: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        source_of(name)
    assert said in str(refused.value)


def test_factories_that_make_no_model_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="expected a function of these two keywords"):
        source_of("users_model:wrong").build(8, 2)
    with pytest.raises(UserError, match=r"AssertionError\('no such width'\)"):
        source_of("users_model:asserting").build(8, 2)
    with pytest.raises(UserError, match=r"returned int; expected a torch\.nn\.Module"):
        source_of("users_model:number").build(8, 2)


def test_inspect_shows_types_and_takes_patterns(folder: Path) -> None:
    call = ["inspect", "--model", "users_model:make", "--width", "8", "--depth", "2"]
    runner = CliRunner()
    refused = runner.invoke(app, call)
    assert isinstance(refused.exception, UserError)
    assert "layers.0.mix.weight" in str(refused.exception)
    (folder / "modules.yaml").write_text(yaml.safe_dump({r"\.mix\.": "attention_out"}))
    shown = runner.invoke(app, [*call, "--modules", "modules.yaml"])
    assert shown.exit_code == 0
    assert "layers.*.mix.weight" in shown.stdout
    assert "layers.1.mix" not in shown.stdout, "one row for all layers"
    document = json.loads(runner.invoke(app, [*call, "--modules", "modules.yaml", "--json"]).stdout)
    assert (document["width"], document["layers"], len(document["tensors"])) == (16, 4, 4 * 4 + 3)
    (folder / "modules.yaml").write_text("mix: 3")
    assert "expected a pattern" in str(
        runner.invoke(app, [*call, "--modules", "modules.yaml"]).exception
    )
    sizeless = runner.invoke(app, ["inspect", "--model", "users_model:make"])
    assert "give --width and --depth" in str(sizeless.exception)


def test_inspect_of_a_configuration_needs_no_size(tmp_path: Path) -> None:
    config("gemma2").save_pretrained(tmp_path)
    shown = CliRunner().invoke(app, ["inspect", "--model", f"hf:{tmp_path}/config.json"])
    assert shown.exit_code == 0, shown.exception
    for note in (
        "the unembedding is the embedding",
        "grew 1.414-fold",
        "adds 1 to the gains",
        "folded into ffn_post",
    ):
        assert note in " ".join(shown.stdout.split())


def test_configurations_that_the_family_refuses_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for change in ({"num_attention_heads": 3}, {"hidden_size": "x"}):
        path.write_text(json.dumps({"model_type": "llama", "hidden_size": 64, **change}))
        with pytest.raises(UserError, match="not a configuration of transformers"):
            source_of(f"hf:{path}")


def test_a_lazy_module_is_refused() -> None:
    with pytest.raises(UserError, match=r"weight has no shape yet \(a lazy module\)"):
        source_of("external_models:lazy").build(32, 2)
