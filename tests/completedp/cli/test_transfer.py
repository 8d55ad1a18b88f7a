"""`rules`, `transfer` and `export` as a person calls them: output, exit statuses, refusals."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import completedp
from completedp.plan import Plan
from completedp.recipe import Recipe
from transfer.exports import FORMATS
from transfer.planning.planner import base_plan
from transfer.planning.table import multiples

Cli = Callable[..., Any]


@pytest.fixture
def recipe_file(recipe: Recipe, tmp_path: Path) -> Path:
    recipe.write(tmp_path / "recipe.yaml")
    return tmp_path / "recipe.yaml"


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_rules_are_the_factors(cli: Cli) -> None:
    done = cli("rules", "--width", 4, "--tokens", 8, "--beta-rule", "power", "--json")
    assert json.loads(done.out) == completedp.factors(
        "completed-p", width=4, tokens=8, beta_rule="power"
    )
    table = cli("rules", "--parameterization", "mup", "--width", 4)
    assert "unembedding" in table.out
    assert "steps 1" in table.out


def test_version_and_root_after_any_verb(cli: Cli) -> None:
    assert cli("--version").out == f"completedp {completedp.__version__}\n"
    assert cli("rules", "--root", "elsewhere").status == 0


def test_transfer_writes_a_plan_and_says_why(
    cli: Cli, recipe_file: Path, recipe: Recipe, tmp_path: Path
) -> None:
    done = cli("transfer", recipe_file, "--width", 128, "--depth", 4, "--tokens", "2e5")
    assert done.status == 0
    plan = Plan.read(tmp_path / "plan.yaml")
    assert (plan.scale.width, plan.scale.depth) == (128, 4)
    assert plan.recipe_digest == recipe.digest
    assert "beta_rule power: valid for every ratio" in done.out
    assert "batch" in done.out
    assert "2505.13738" in done.out
    for module_type in ("unembedding", "q_norm", "ffn branch"):
        assert module_type in done.out


def test_the_difference_to_the_baseline(cli: Cli, recipe: Recipe, recipe_file: Path) -> None:
    """It is the recipe's own multipliers over its global values at any scale: no rule appears in it."""
    done = cli("transfer", recipe_file, "--width", 64, "--depth", 4, "--diff", "--json")
    rows = {row["name"]: row for row in json.loads(done.out)["multiples_of_baseline"]}
    globals_ = recipe.hparams.global_.lr / recipe.baseline.global_.lr
    wanted = recipe.hparams.types["lr"]["unembedding"] * globals_
    assert rows["unembedding.weight"]["lr"] == pytest.approx(wanted)
    table = cli("transfer", recipe_file, "--width", 64, "--diff").out
    assert "multiples of the global baseline" in table
    assert "multiples of" not in cli("transfer", recipe_file, "--width", 64).out


def test_parts_that_the_baseline_has_no_values_of(recipe: Recipe) -> None:
    """They are compared to the fused tensor's."""
    plan = base_plan(recipe)
    (whole,) = (r for r in plan.tensors if r.name == "layers.0.attention.q.weight")
    part = dataclasses.replace(whole, name=f"{whole.name}[q]", lr=3 * whole.lr)
    parted = dataclasses.replace(plan, tensors=(part,))
    (row,) = multiples(parted, plan)
    assert (row["name"], row["lr"], row["eps"]) == (part.name, pytest.approx(3.0), 1.0)
    assert multiples(plan, parted)[0]["lr"] is None


def test_independent_decay_has_its_own_heading(cli: Cli) -> None:
    assert "lr x weight_decay" in cli("rules", "--width", 4, "--decay", "independent").out
    assert "lr x" not in cli("rules", "--width", 4).out


def test_far_durations_are_warned_of(cli: Cli, recipe: Recipe, recipe_file: Path) -> None:
    tokens = recipe.train.tokens * 20
    done = cli("transfer", recipe_file, "--tokens", tokens)
    assert "exponents that others fitted" in done.err
    done = cli("transfer", recipe_file, "--tokens", tokens, "--parameterization", "mup")
    assert "exponents that others fitted" not in done.err


def test_transfer_by_flops_as_json(cli: Cli, recipe_file: Path, tmp_path: Path) -> None:
    done = cli("transfer", recipe_file, "--flops", "1e15", "--out", "sub/p.yaml", "--json")
    document = json.loads(done.out)
    plan = Plan.read(tmp_path / "sub" / "p.yaml")
    assert document["flops"] == plan.flops == pytest.approx(1e15, rel=1e-2)
    assert {choice["name"] for choice in document["choices"]} == {
        "values",
        "width",
        "depth",
        "batch",
        "tokens",
        "beta_rule",
    }
    # The small shape's aspect ratio of 16 keeps width and depth within, the batch grows beyond ×4.
    assert any("batch x" in warning for warning in document["warnings"])
    assert "warning: beyond the ratios" in done.err


def test_transfer_of_the_baseline(cli: Cli, recipe_file: Path, tmp_path: Path) -> None:
    cli("transfer", recipe_file, "--width", 32, "--which", "baseline", "--parameterization", "sp")
    plan = Plan.read(tmp_path / "plan.yaml")
    assert {row.lr for row in plan.tensors} == {4e-3}


def test_transfer_to_the_base_changes_nothing(
    cli: Cli, recipe_file: Path, recipe: Recipe, tmp_path: Path
) -> None:
    cli("transfer", recipe_file, "--width", 32)
    expected = completedp.resolve(
        recipe.hparams, recipe.model.inventory(recipe.model), completedp.Ratios()
    )
    assert Plan.read(tmp_path / "plan.yaml").tensors == pytest.approx(expected.tensors)
    assert Plan.read(tmp_path / "plan.yaml").resolved == expected


def test_1e26_flops_are_planned(cli: Cli, recipe: Recipe, tmp_path: Path) -> None:
    """The base has a practical shape: the toy's aspect ratio would give 1500 layers."""
    wide = {**recipe.to_dict(), "hparams": recipe.to_dict()["baseline"]}
    wide["model"] |= {"width": 1024, "head_dim": 128, "ffn": 2816, "context": 2048}
    wide["train"] |= {"tokens": 2048 * 100_000, "batch": 2048 * 100, "eval_tokens": 2048}
    wide["base"] = {"width": 1024, "depth": 2, "batch": 2048 * 100, "tokens": 2048 * 100_000}
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump(wide))
    assert cli("transfer", "wide.yaml", "--flops", "1e26").status == 0
    assert Plan.read(tmp_path / "plan.yaml").flops == pytest.approx(1e26, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no target is given"),
        (["--flops", "1e20", "--width", "64", "--depth", "2", "--tokens", "1e6"], "leave one out"),
        (["--flops", "-1"], "flops is -1.0"),
        (["--flops", "nan"], "flops is nan"),
        (["--flops", "10"], "give more"),
        (["--width", "33"], "multiple of head_dim"),
        (["--width", "-32"], "width is -32"),
        (["--tokens", "0"], "tokens is 0"),
        (["--batch", "100"], "64 or 128"),
        (["--width", "wide"], "'wide' is no number"),
        (["--tokens", "1.5"], "not a whole number"),
        (["--width", "64", "--alpha", "3"], "alpha is 3.0"),
        (["--width", "64", "--beta-rule", "cubic"], "beta_rule is 'cubic'"),
        (["--width", "64", "--parameterization", "mu"], "unknown parameterization 'mu'"),
        (["--width", "64", "--parameterization", "mup", "--beta-rule", "power"], "no meaning"),
        (["--tokens", "256", "--batch", "256", "--beta-rule", "linear"], "use beta_rule 'power'"),
        (["--width", "64", "--out", "recipe.yaml/plan.yaml"], "cannot be written"),
    ],
)
def test_transfer_refuses_and_writes_nothing(
    cli: Cli, recipe_file: Path, arguments: list[str], said: str
) -> None:
    before = recipe_file.read_bytes()
    done = cli("transfer", recipe_file, *arguments)
    assert done.status == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert files_in(recipe_file.parent) == {"recipe.yaml"}
    assert recipe_file.read_bytes() == before


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(data: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for part in parents:
            data = data[part]
        data[last] = value

    return edit


def _drop(path: str) -> Callable[[dict[str, Any]], None]:
    def edit(data: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for part in parents:
            data = data[part]
        del data[last]

    return edit


NONSENSE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "text for a width": (_set("model.width", "wide"), "model.width is 'wide'"),
    "a broken width": (_set("model.width", 32.5), "model.width is 32.5"),
    "truth for a depth": (_set("model.depth", True), "model.depth is True"),
    "no model": (_drop("model"), "model is missing"),
    "no tokens": (_drop("train.tokens"), "train.tokens is missing"),
    "no lr": (_drop("hparams.global.lr"), "hparams.global.lr is missing"),
    "unknown key": (_set("train.tokns", 3), "train.tokns: unknown key; did you mean 'tokens'"),
    "negative lr": (_set("hparams.global.lr", -1.0), "hparams.global.lr is -1.0"),
    "lr that is no number": (_set("hparams.global.lr", float("nan")), "hparams.global.lr is nan"),
    "infinite multiplier": (_set("hparams.types.lr.q", float("inf")), "hparams.types.lr.q is inf"),
    "text for a multiplier": (_set("hparams.types.lr.q", "big"), "hparams.types.lr.q is 'big'"),
    "unknown module type": (
        _set("hparams.types.lr.qq", 2.0),
        "hparams.types.lr.qq: unknown module type",
    ),
    "unknown kind": (_set("baseline.types.lrr", {}), "baseline.types.lrr: unknown kind"),
    "negative decay": (
        _set("baseline.global.weight_decay", -1.0),
        "baseline.global.weight_decay is -1.0",
    ),
    "a list for types": (_set("hparams.types", [1]), "hparams.types is [1]"),
    "too many layers": (_set("hparams.depth", {"lr": [1.0] * 3}), "has 3 numbers; expected 2"),
    "base that disagrees": (_set("base.width", 64), "must agree"),
    "batch of part of a sequence": (_set("train.batch", 100), "multiple of"),
    "infinite rope": (_set("model.rope_base", float("inf")), "rope_base is inf"),
    "negative rope": (_set("model.rope_base", -1.0), "rope_base is -1.0"),
    "a loss that is no number": (_set("provenance.loss", float("nan")), "provenance.loss is nan"),
    "warm-up that is no number": (_set("train.warmup", float("nan")), "warmup is nan"),
    "unknown schedule": (_set("train.schedule", "stairs"), "train.schedule is 'stairs'"),
    "unknown parameterization": (_set("parameterization", "up"), "parameterization is 'up'"),
    "another schema": (_set("schema", 7), "schema is 7"),
    "another kind": (_set("kind", "study"), "kind is 'study'"),
}


@pytest.mark.parametrize("verb", ["transfer", "export", "train"])
@pytest.mark.parametrize("name", NONSENSE)
def test_a_recipe_edited_into_nonsense_is_refused(
    cli: Cli, recipe: Recipe, tmp_path: Path, verb: str, name: str
) -> None:
    edit, said = NONSENSE[name]
    data = yaml.safe_load(yaml.safe_dump(recipe.to_dict()))
    edit(data)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    options = {"transfer": ["--width", "64"], "export": ["--format", "json"], "train": []}[verb]
    done = cli(verb, "recipe.yaml", *options)
    assert done.status == 2, done.out
    assert said in done.err
    assert "recipe.yaml" in done.err
    assert done.out == ""
    assert files_in(tmp_path) == {"recipe.yaml"}


@pytest.mark.parametrize(
    "content", ["", "- 1\n", "a: [", "kind: recipe\nkind: plan\n", "\x00\x01", "kind: recipe\n"]
)
def test_a_file_of_something_else_is_refused(cli: Cli, tmp_path: Path, content: str) -> None:
    (tmp_path / "x.yaml").write_text(content)
    done = cli("export", "x.yaml", "--format", "json")
    assert (done.status, done.out) == (2, "")
    assert "x.yaml" in done.err
    missing = cli("transfer", "absent.yaml", "--width", 64)
    assert (missing.status, missing.err) == (2, "error: absent.yaml: no such file\n")


def test_export_writes_the_format(cli: Cli, recipe_file: Path, tmp_path: Path) -> None:
    assert cli("export", recipe_file, "--format", "torch").status == 0
    compile((tmp_path / "completedp_values.py").read_text(), "values", "exec")
    cli("transfer", recipe_file, "--width", 64)
    done = cli("export", "plan.yaml", "--format", "json", "--out", "t.json", "--json")
    assert json.loads(done.out)["out"] == "t.json"
    table = json.loads((tmp_path / "t.json").read_text())
    assert table["scale"]["width"] == 64
    unknown = cli("export", recipe_file, "--format", "jax")
    assert unknown.status == 2
    assert "unknown format 'jax'" in unknown.err


def test_what_a_trainer_cannot_express_is_a_warning(cli: Cli, recipe_file: Path) -> None:
    plain = cli("export", recipe_file, "--format", "hf")
    document = json.loads(cli("export", recipe_file, "--format", "hf", "--json").out)
    assert len(document["cannot"]) > 1
    assert plain.err == "".join(f"warning: {sentence}\n" for sentence in document["cannot"])
    assert json.loads(cli("export", recipe_file, "--format", "json", "--json").out)["cannot"] == []


def test_help_names_every_format(cli: Cli) -> None:
    said = cli("export", "--help").out
    assert all(name in said for name in FORMATS)


def test_a_result_does_not_replace_what_it_is_made_from(cli: Cli, recipe_file: Path) -> None:
    before = recipe_file.read_bytes()
    for arguments in (
        ("transfer", recipe_file, "--width", 64, "--out", recipe_file),
        ("export", recipe_file, "--format", "json", "--out", "recipe.yaml"),
    ):
        done = cli(*arguments)
        assert done.status == 2
        assert "is the file that is read" in done.err
    assert recipe_file.read_bytes() == before


def test_a_plan_says_which_values_it_has(cli: Cli, recipe_file: Path) -> None:
    for which, option in (("tuned", ()), ("baseline", ("--which", "baseline"))):
        done = cli("transfer", recipe_file, "--width", 64, *option)
        assert f"{which} values of recipe sha256:" in done.out
        assert Plan.read(Path("plan.yaml")).which == which
    done = cli("transfer", "plan.yaml", "--width", 64, "--out", "other.yaml")
    assert done.status == 2
    assert "kind is 'plan'; expected a 'recipe'" in done.err


def test_an_axis_without_a_rule_is_said(cli: Cli, recipe_file: Path) -> None:
    done = cli("transfer", recipe_file, "--width", 64, "--depth", 4, "--parameterization", "mup")
    assert "mup has no rule for depth x 2, batch x 2, tokens x" in done.err
    assert "has no rule" not in cli("transfer", recipe_file, "--width", 64, "--depth", 4).err


def test_multipliers_that_no_tensor_takes_are_refused(cli: Cli, recipe_file: Path) -> None:
    data = yaml.safe_load(recipe_file.read_text())
    data["hparams"]["types"]["lr"]["qkv"] = 8.0
    recipe_file.write_text(yaml.safe_dump(data))
    done = cli("transfer", recipe_file, "--width", 64)
    assert done.status == 2
    assert "module types that the model does not have: qkv" in done.err


@pytest.mark.parametrize("format", ["torch", "hf", "nanogpt", "torchtitan"])
def test_a_recipe_of_a_users_loop_is_exported(cli: Cli, recipe_file: Path, format: str) -> None:
    data = yaml.safe_load(recipe_file.read_text())
    data["train"]["loop"] = "mine.loops:make"
    recipe_file.write_text(yaml.safe_dump(data))
    done = cli("export", recipe_file, "--format", format, "--out", "values.py")
    assert done.status == 0, done.err
    assert "mine.loops" not in Path("values.py").read_text()
