"""`completedp.train`: what it refuses before anything is written."""

import dataclasses
from pathlib import Path

import pytest

import completedp
from completedp.errors import UserError
from completedp.recipe import Recipe
from transfer.planning.planner import base_plan


def test_a_plan_with_values_that_no_trainer_takes_is_refused(
    recipe: Recipe, tmp_path: Path
) -> None:
    plan = base_plan(recipe)
    first, *others = plan.tensors
    wrong = dataclasses.replace(plan, tensors=(dataclasses.replace(first, lr=-1.0), *others))
    with pytest.raises(UserError, match=r"lr is -1\.0; expected at most .*, and above 0"):
        completedp.train(wrong, root=tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())


def test_a_negative_seed_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seed is -1; expected a whole number, 0 or more"):
        completedp.train(base_plan(recipe), seed=-1, root=tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())


def test_the_path_of_a_recipe_is_told_to_be_no_plan(recipe: Recipe, tmp_path: Path) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    with pytest.raises(UserError, match=r"recipe\.yaml: kind is 'recipe'; expected a 'plan', as"):
        completedp.train(tmp_path / "recipe.yaml", root=tmp_path, device="cpu")
