"""Exported files train to the tool's own losses, refuse other models, and hold no foreign code."""

import ast
import dataclasses
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import SEED, carried, of_train, own_losses, run_trainer, write
from hypothesis import given
from hypothesis import strategies as st

from completedp.errors import UserError
from completedp.flops import shapes
from completedp.lm.model import LanguageModel
from completedp.lm.schedule import multiplier
from completedp.plan import Plan
from completedp.recipe import Recipe
from transfer.exports import FORMATS, format_named
from transfer.exports.canonical.render import table
from transfer.exports.torch import template
from transfer.planning.planner import base_plan

PYTHON = [name for name, form in FORMATS.items() if form.file_name.endswith(".py")]
# Measured: 0 in float32, where nothing is folded, and at most 4e-16 in float64.
WITHIN = {torch.float32: 1e-6, torch.float64: 1e-13}


@dataclass(frozen=True)
class Case:
    """Whose values, the model's type, whether clipped, and which file is trained how."""

    rules: str = "completed-p"  # "base": the recipe at its own scale
    dtype: torch.dtype = torch.float64
    clip: bool = True
    folded: bool = False
    formats: tuple[str, ...] = ("json", "torch")


PLAIN = {
    "base": Case(rules="base", dtype=torch.float32),
    "completed-p": Case(),
    "completep": Case(rules="completep"),
}
UNCLIPPED = Case(clip=False, folded=True)
# Only the file with an optimizer can clip by the norm of the unfolded gradients.
CLIPPED = {
    name: Case(rules=name, folded=True, formats=("torch",)) for name in ("completed-p", "completep")
}


Trained = dict[Case, tuple[list[float], list[list[float]]]]


def planned(recipe: Recipe, case: Case) -> Plan:
    if case.rules == "base":
        return base_plan(recipe)
    own = recipe if case.clip else of_train(recipe, clip=0.0)
    return carried(own, parameterization=case.rules)


@pytest.fixture(scope="module")
def trained(recipe: Recipe, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Own losses and those of each file, by case.

    One process that knows only the exported files and the batches trains all: its imports take as long as
    its steps. What is folded has the own losses of what is not.
    """
    own: dict[Case, tuple[list[float], Path]] = {}
    cases = [*PLAIN.values(), UNCLIPPED, *CLIPPED.values()]
    arguments: list[object] = []
    for case in cases:
        plan = planned(recipe, case)
        alike = dataclasses.replace(case, folded=False, formats=())
        if alike not in own:
            folder = tmp_path_factory.mktemp("case")
            own[alike] = own_losses(plan, text, folder, case.dtype), folder
        folder = own[alike][1]
        for name in case.formats:
            dtype = str(case.dtype).removeprefix("torch.")
            folded = "folded" if case.folded else "plain"
            arguments += [folder / "batches.npy", dtype, folded, write(plan, name, folder)]
    found = iter(run_trainer("foreign_trainer.py", SEED, *arguments))
    return {
        case: (
            own[dataclasses.replace(case, folded=False, formats=())][0],
            [next(found) for _ in case.formats],
        )
        for case in cases
    }


@pytest.mark.parametrize("name", PLAIN)
def test_exports_train_to_the_tools_own_losses(trained: Trained, name: str) -> None:
    case = PLAIN[name]
    expected, by_file = trained[case]
    assert len(by_file) == 2
    for found in by_file:
        assert found == pytest.approx(expected, rel=WITHIN[case.dtype])


def test_folded_exports_need_no_residual_hook(recipe: Recipe, trained: Trained) -> None:
    """Folding changes only the rounding. Clipping is off: it would see other gradients."""
    plan = planned(recipe, UNCLIPPED)
    assert {c for by_layer in plan.residual.values() for c in by_layer} != {1.0}
    expected, by_file = trained[UNCLIPPED]
    assert len(by_file) == 2
    for found in by_file:
        assert found == pytest.approx(expected, rel=WITHIN[torch.float64])


@pytest.mark.parametrize("name", CLIPPED)
def test_a_folded_file_clips_as_the_unfolded_model(
    recipe: Recipe, trained: Trained, name: str
) -> None:
    """The norm is that of the unfolded gradients. The multiplier of the logits is folded too."""
    case = CLIPPED[name]
    assert (planned(recipe, case).output_multiplier != 1.0) == (name == "completep")
    expected, (found,) = trained[case]
    assert found == pytest.approx(expected, rel=WITHIN[torch.float64])


@given(
    steps=st.integers(1, 40),
    schedule=st.sampled_from(["cosine", "wsd", "linear"]),
    warmup=st.floats(0, 1),
    decay=st.floats(0, 1),
    final_lr=st.floats(0, 1),
)
def test_the_files_schedule_is_the_tools(
    recipe: Recipe, steps: int, schedule: Any, warmup: float, decay: float, final_lr: float
) -> None:
    train = dataclasses.replace(
        recipe.train,
        tokens=recipe.train.batch * steps,
        schedule=schedule,
        warmup=warmup,
        decay=decay,
        final_lr=final_lr,
    )
    namespace = vars(template)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(namespace, "TRAIN", {"steps": steps, **dataclasses.asdict(train)})
        found = [template.schedule(step) for step in range(steps)]
        after = template.schedule(steps)  # a scheduler asks for one more
    assert found == [multiplier(train, step) for step in range(steps)]
    assert 0 <= after <= 1


def load(plan: Plan) -> dict[str, Any]:
    """The names a generated file defines."""
    names: dict[str, Any] = {}
    exec(compile(FORMATS["torch"].render(plan), "exported", "exec"), names)
    return names


def test_another_model_is_refused_by_name(recipe: Recipe) -> None:
    exported = load(base_plan(recipe))
    smaller = LanguageModel(dataclasses.replace(recipe.model, depth=1, activation="gelu"))
    for call in (
        lambda: exported["initialize"](smaller, 0),
        lambda: exported["param_groups"](smaller),
    ):
        with pytest.raises(ValueError, match=r"layers\.1\.attention\.k\.weight"):
            call()
    larger = LanguageModel(dataclasses.replace(recipe.model, depth=3))
    with pytest.raises(ValueError, match=r"only in the model: \['layers\.2"):
        exported["param_groups"](larger)


def test_another_width_is_refused(recipe: Recipe) -> None:
    """The values would be another model's. More rows of the vocabulary are allowed."""
    exported = load(base_plan(recipe))
    wider = LanguageModel(dataclasses.replace(recipe.model, width=64, ffn=176))
    with pytest.raises(ValueError, match=r"embedding\.weight has the shape \[256, 64\]"):
        exported["initialize"](wider, 0)
    padded = LanguageModel(dataclasses.replace(recipe.model, vocab_size=320))
    exported["initialize"](padded, 0)
    fewer = LanguageModel(dataclasses.replace(recipe.model, vocab_size=128))
    with pytest.raises(ValueError, match=r"\[128, 32\]; expected \[256, 32\]"):
        exported["param_groups"](fewer)


def test_groups_hold_every_parameter_once(recipe: Recipe) -> None:
    model = LanguageModel(recipe.model)
    groups = load(base_plan(recipe))["param_groups"](model)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert len(groups) < len(grouped)


@pytest.mark.parametrize("name", PYTHON)
def test_the_generated_file_is_clean(recipe: Recipe, tmp_path: Path, name: str) -> None:
    path = write(carried(recipe), name, tmp_path)
    for arguments in (
        ["check", "--isolated", "--select=F,I,UP", "--line-length=100"],
        ["format", "--check", "--isolated", "--line-length=100"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, str(path)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
        )
    }
    assert imported <= {"torch", *FOREIGN.get(name, ()), *sys.stdlib_module_names}


FOREIGN = {"hf": {"transformers"}, "torchtitan": {"torchtitan"}}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_says_what_its_trainer_cannot_express(recipe: Recipe, name: str) -> None:
    plan = carried(recipe)
    docstring = "" if name == "json" else ast.get_docstring(ast.parse(FORMATS[name].render(plan)))
    said = " ".join((docstring or "").split())
    for sentence in FORMATS[name].limitations(plan):
        assert sentence in said
    assert ("cannot express" in said) == bool(FORMATS[name].limitations(plan))


@given(
    name=st.text(max_size=40) | st.sampled_from(['x"\nimport os\n"', "a\\", "'''", '"}; exit()']),
    form=st.sampled_from(PYTHON),
)
def test_no_name_becomes_code(recipe: Recipe, name: str, form: str) -> None:
    """A name is refused, or comes back as the same text."""
    plan = base_plan(recipe)
    row = dataclasses.replace(plan.tensors[0], name=name)
    foreign = dataclasses.replace(plan, tensors=(row, *plan.tensors[1:]))
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        said = re.escape(repr(name)) if form == "torch" else "cannot be written into a Python file"
        with pytest.raises(UserError, match=said):
            FORMATS[form].render(foreign)
        return
    source = FORMATS[form].render(foreign)
    first, entry = next(iter(tables(source)["TENSORS"].items()))
    assert entry["name"] == name
    assert (first == name) == (form == "torch")


def tables(source: str) -> dict[str, Any]:
    """The assigned constants; they may only be literals."""
    return {
        node.target.id: ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value
    }


def test_a_non_finite_value_is_refused(recipe: Recipe) -> None:
    plan = base_plan(recipe)
    row = dataclasses.replace(plan.tensors[0], lr=float("inf"))
    with pytest.raises(UserError, match="is inf"):
        FORMATS["torch"].render(dataclasses.replace(plan, tensors=(row,)))


def test_every_number_is_written_whole(recipe: Recipe) -> None:
    """A value that is read back equals the plan's, in both formats."""
    plan = carried(recipe)
    document = json.loads(FORMATS["json"].render(plan))
    assert document == table(plan)
    assert document["tensors"] == [dataclasses.asdict(row) for row in plan.tensors]
    assert document["folded"] == [dataclasses.asdict(row) for row in plan.resolved.folded().tensors]
    source = tables(FORMATS["torch"].render(plan))
    for row in plan.tensors:
        assert source["TENSORS"][row.name]["lr"] == row.lr
    assert source["TRAIN"] == {k: v for k, v in document["train"].items() if k != "loop"}
    assert source["TRAIN"]["steps"] == plan.train.steps


def test_the_file_folds_as_the_plan_does(recipe: Recipe) -> None:
    """ε is too small for a short run to feel, so folding is compared value by value too."""
    plan = carried(recipe)
    exported = load(plan)
    for row in plan.resolved.folded().tensors:
        found = exported["_row"](row.name, True)
        assert found.pop("shape") == list(shapes(plan.reference)[row.name])
        assert found == {name: getattr(row, name) for name in found}


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UserError, match="unknown format 'jsn'; did you mean 'json'"):
        format_named("jsn")


def test_independent_decay_survives_folding(recipe: Recipe) -> None:
    """λ_ind = lr · weight_decay of a group is what folding must leave alone."""
    plan = carried(recipe, decay="independent")
    exported = load(plan)
    for row in plan.tensors:
        folded = exported["_row"](row.name, True)
        assert folded["lr"] * folded["weight_decay"] == pytest.approx(row.lr * row.weight_decay)
