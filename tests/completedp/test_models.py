"""The two kinds of model behind one face, and their tag in files."""

from pathlib import Path

import pytest
import yaml

from completedp import files, validation
from completedp.config import ExternalModel, ModelConfig, StudyConfig
from completedp.errors import UserError
from completedp.lm.preset_files import load_preset
from completedp.models import content_of, kind_of
from completedp.plan_check import read_plan
from completedp.recipe import Recipe
from search.study_folder import StudyFolder

OLD = Path(__file__).parents[1] / "golden" / "old"
EXTERNAL = {"source": "a:b", "width": 8, "depth": 2, "vocab_size": 256, "context": 64}
REFERENCE = load_preset("tiny").to_dict()["model"]


def study_of(model: object) -> StudyConfig:
    return validation.validate(StudyConfig, {**load_preset("tiny").to_dict(), "model": model}, "x")


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (REFERENCE, ModelConfig),
        ({k: v for k, v in REFERENCE.items() if k != "kind"}, ModelConfig),
        (EXTERNAL, ExternalModel),
        ({"kind": "external", **EXTERNAL}, ExternalModel),
    ],
)
def test_a_model_is_read_with_and_without_its_kind(model: dict[str, object], kind: type) -> None:
    found = study_of(model).model
    assert type(found) is kind
    assert study_of(study_of(model).to_dict()["model"]).model == found
    assert content_of(found).keys() >= model.keys() - {"kind"}
    assert "kind" not in content_of(found)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({**REFERENCE, "widht": 3}, r"^x: model\.widht: unknown key; did you mean 'width'\?$"),
        ({**REFERENCE, "width": "3"}, r"^x: model\.width is '3'; input should be a valid integer$"),
        ({**EXTERNAL, "depth": None}, r"^x: model\.depth is None; input should be a valid integer"),
        (
            {k: v for k, v in EXTERNAL.items() if k != "context"},
            r"^x: model\.context is missing; add it$",
        ),
        (
            {**REFERENCE, "kind": "of mine"},
            r"^x: model\.kind is 'of mine'; expected reference or ext",
        ),
        (
            {**REFERENCE, "kind": ["a"]},
            r"^x: model\.kind is \['a'\]; expected reference or external",
        ),
        (
            {**REFERENCE, "kind": None},
            r"^x: model\.kind is None; expected reference or external$",
        ),
        (
            {**REFERENCE, "LARGEST": 3},
            r"^x: model\.LARGEST: unknown key; known: activation, context",
        ),
        ({**EXTERNAL, "kind": "reference"}, r"x: model\.source: unknown key"),
        ([REFERENCE], r"^x: model is .*; expected a mapping$"),
        (None, r"^x: model is None; expected a mapping$"),
    ],
)
def test_a_message_speaks_of_the_kind_that_is_meant(model: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        study_of(model)


def test_files_of_the_version_before_the_kind_still_read(tmp_path: Path) -> None:
    for name in ("recipe.yaml", "plan.yaml", "study/study.yaml"):
        assert "kind" not in yaml.safe_load((OLD / name).read_text())["model"]
    recipe, plan = Recipe.read(OLD / "recipe.yaml"), read_plan(OLD / "plan.yaml")
    assert plan.recipe_digest == recipe.digest
    assert recipe.to_dict()["model"]["kind"] == plan.to_dict()["model"]["kind"] == "reference"
    config = load_preset(str(OLD / "study" / "study.yaml"))
    folder = tmp_path / "studies" / "old"
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_bytes((OLD / "study" / "journal.jsonl").read_bytes())
    study = StudyFolder(root=tmp_path, name="old").read()
    assert study.done
    assert study.spec.config == config
    assert study.spec.config.model == recipe.model


def test_a_recipe_is_written_as_before_but_for_the_kind(tmp_path: Path) -> None:
    Recipe.read(OLD / "recipe.yaml").write(tmp_path / "recipe.yaml")
    written = (tmp_path / "recipe.yaml").read_text().splitlines(keepends=True)
    assert written.count("  kind: reference\n") == 1
    written.remove("  kind: reference\n")
    assert "".join(written) == (OLD / "recipe.yaml").read_text()


def test_the_digest_of_a_recipe_does_not_depend_on_the_tag() -> None:
    content = files.read_yaml(OLD / "recipe.yaml")
    tagged = {**content, "model": {"kind": "reference", **content["model"]}}
    assert (
        Recipe.from_dict(tagged).digest == Recipe.from_dict(content).digest == files.digest(content)
    )


def test_a_run_of_the_reference_model_has_no_code_of_the_users() -> None:
    model = load_preset("tiny").model
    assert kind_of(model).code(model) is None
    assert not kind_of(model).needs_working_folder
