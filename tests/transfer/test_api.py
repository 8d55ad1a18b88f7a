"""The Python calls: they give what their verbs write, are light to import, and have examples that run."""

import dataclasses
import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import transfer
from completedp.cli.app import main
from completedp.errors import UserError
from completedp.plan import Plan
from completedp.recipe import Recipe
from transfer import api
from transfer.exports import FORMATS
from transfer.planning.planner import base_plan


@pytest.fixture(autouse=True)
def recipe_file(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    recipe.write(Path("recipe.yaml"))
    return Path("recipe.yaml")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["completedp", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code


def test_the_examples_run_as_printed() -> None:
    results = doctest.testmod(api)
    assert results.attempted > 3
    assert results.failed == 0


def test_a_plan_is_the_verbs(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["transfer", "recipe.yaml", "--flops", "1e15", "--tokens-per-parameter", "30"]
    call(monkeypatch, *command, "--which", "baseline", "--parameterization", "completep")
    planned = transfer.plan(
        recipe,
        flops=1e15,
        tokens_per_parameter=30,
        which="baseline",
        parameterization="completep",
    )
    assert planned == Plan.read(Path("plan.yaml"))
    call(monkeypatch, "transfer", "recipe.yaml", "--width", "64", "--beta-rule", "linear")
    planned = transfer.plan("recipe.yaml", width=64, beta_rule="linear")
    assert planned == Plan.read(Path("plan.yaml"))


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_is_the_verbs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = transfer.plan("recipe.yaml", width=64)
    plan.write(Path("plan.yaml"))
    call(monkeypatch, "export", "plan.yaml", "--format", name, "--out", "exported")
    text = Path("exported").read_text()
    assert transfer.export(plan, name) == transfer.export("plan.yaml", name) == text


def test_a_recipes_path_is_exported_at_its_own_scale(recipe: Recipe, recipe_file: Path) -> None:
    assert transfer.export(recipe_file, "json") == transfer.export(base_plan(recipe), "json")


def test_mistakes_are_user_errors(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="no target is given"):
        transfer.plan(recipe, aspect=16.0)
    with pytest.raises(UserError, match=r"tokens is 1000000\.0; expected a whole number"):
        transfer.plan(recipe, tokens=1e6)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"depth is True; expected a whole number"):
        transfer.plan(recipe, depth=True)
    with pytest.raises(UserError, match=r"flops is '1e12'; expected a finite number above 0"):
        transfer.plan(recipe, flops="1e12")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unknown rule option 'alhpa'; did you mean 'alpha'"):
        transfer.plan(recipe, width=64, alhpa=1.0)
    with pytest.raises(UserError, match=r"absent\.yaml: no such file"):
        transfer.export("absent.yaml", "hf")


def test_a_plan_with_values_that_no_trainer_takes_is_not_exported(recipe: Recipe) -> None:
    plan = base_plan(recipe)
    first, *others = plan.tensors
    wrong = dataclasses.replace(plan, tensors=(dataclasses.replace(first, lr=-1.0), *others))
    with pytest.raises(UserError, match=r"lr is -1\.0; expected at most"):
        transfer.export(wrong, "torch")


def test_no_measurement_has_less_than_one_worker(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"workers is 0; expected 1 or more"):
        transfer.speedup(recipe, workers=0, root="root", dry_run=True)


def test_the_package_and_its_registry_are_light() -> None:
    code = "import sys, transfer, transfer.exports; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "numpy", "yaml", "pydantic", "typer", "matplotlib", "ax", "mlflow"}
    assert heavy.isdisjoint(done.stdout.split())
