"""The house rules that a tool can check: who imports whom, how light the package is, what is never called."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("completedp", "search", "transfer")
SOURCES = sorted(path for p in PACKAGES for path in (REPOSITORY / p).rglob("*.py"))
HEAVY = ("torch", "numpy", "ax", "botorch", "mlflow", "yaml", "pydantic", "typer", "matplotlib")


def loaded_after(code: str) -> set[str]:
    """The top-level modules in a fresh interpreter after `code`."""
    probe = f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", probe]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(result.stdout.splitlines()[-1].split())


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, in functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield node.module or ""


def test_import_is_light() -> None:
    assert loaded_after("import completedp").isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "verb",
    [
        ["--help"],
        ["search", "--help"],
        ["rules", "--width", "2"],
        ["transfer", "--help"],
        ["export", "--help"],
        ["transfer-check", "--help"],
    ],
    ids=" ".join,
)
def test_light_verbs_import_nothing_heavy(verb: list[str]) -> None:
    code = (
        "import sys, completedp.cli.app\n"
        f"sys.argv = ['completedp', *{verb!r}]\n"
        "try:\n    completedp.cli.app.main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
    )
    assert loaded_after(code).isdisjoint(("torch", "ax", "botorch", "mlflow", "matplotlib"))


def test_workers_import_torch_and_numpy_only() -> None:
    loaded = loaded_after("import completedp.runs.worker, completedp.lm.train")
    assert "torch" in loaded
    assert loaded.isdisjoint(set(HEAVY) - {"torch", "numpy"} | {"rich", "pandas", "tokenizers"})


# From the ground up. A file imports from its own level and lower ones only; a file that is in no room belongs
# to the base. `doctor` and `repair` try everything below the command line.
LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"completedp"}),
    frozenset({"completedp.runs"}),
    frozenset({"completedp.lm"}),
    frozenset({"completedp.adapters"}),
    frozenset({"completedp.coordcheck", "completedp.training"}),
    frozenset({"completedp.tracking"}),
    frozenset({"completedp.doctor", "completedp.repair", "search", "transfer"}),
    frozenset({"completedp.cli"}),
    frozenset({"completedp.__main__"}),
)
MODULES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCES
}


def imported_modules(path: Path) -> set[str]:
    """The modules of ours that a file imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) or {node.module or ""}
    return found & MODULES.keys()


def level_of(module: str) -> int:
    """The level of the longest name in `LEVELS` that the module's begins with."""
    named = [
        (len(name), level)
        for level, names in enumerate(LEVELS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    return max(named)[1]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_import_goes_up(module: str) -> None:
    if module == "completedp":
        return  # its names are resolved on first use
    above = {m for m in imported_modules(MODULES[module]) if level_of(m) > level_of(module)}
    assert not above, f"{module} imports from above: {above}"


def test_no_imports_go_in_a_circle() -> None:
    graph = {module: imported_modules(path) - {module} for module, path in MODULES.items()}
    del graph["completedp"]
    while free := {m for m, imported in graph.items() if not imported & graph.keys()}:
        graph = {m: imported for m, imported in graph.items() if m not in free}
    assert not graph, f"in a circle, or above one: {sorted(graph)}"


def test_search_and_transfer_never_meet() -> None:
    for module, path in MODULES.items():
        if (room := module.split(".")[0]) != "completedp":
            other = {"search": "transfer", "transfer": "search"}[room]
            assert other not in {name.split(".")[0] for name in imports(path)}, module


def test_one_file_asks_which_kind_a_model_is() -> None:
    asking = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "isinstance"
        and {"ModelConfig", "ExternalModel"} & set(re.findall(r"\w+", ast.unparse(node.args[1])))
    }
    assert asking <= {"completedp.models"}


def test_a_worker_that_trains_the_reference_model_loads_no_adapter(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from completedp.config import DataConfig, ModelConfig, TrainConfig\n"
        "from completedp.lm.train import language_model\n"
        "from completedp.hparams import GlobalValues, HParams\n"
        "from completedp.models import own_inventory\n"
        "from completedp.resolved import resolve\n"
        "from completedp.scale import Ratios\n"
        "model = ModelConfig(width=32, depth=1, head_dim=16, ffn=32, vocab_size=256, context=32)\n"
        "train = TrainConfig(tokens=128, batch=64, eval_tokens=64)\n"
        "parts = {'model': vars(model), 'data': vars(DataConfig()), 'train': vars(train)}\n"
        f"task = language_model(**parts, split='select', cache={str(tmp_path)!r})\n"
        "values = HParams(global_=GlobalValues(lr=0.01))\n"
        "task(resolve(values, own_inventory(model), Ratios()), 0, lambda step, loss: None)\n"
        "assert not [name for name in sys.modules if name.startswith('completedp.adapters')]\n"
    )
    assert "torch" in loaded_after(code)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_nothing_unsafe_is_read(path: Path) -> None:
    """No pickle, YAML through the one loader only, checkpoints as weights only."""
    assert not {"pickle", "cloudpickle", "joblib", "dill"} & {
        n.split(".")[0] for n in imports(path)
    }
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called, keywords = (
            ast.unparse(node.func),
            {k.arg: ast.unparse(k.value) for k in node.keywords},
        )
        if called == "torch.load":
            assert keywords.get("weights_only") == "True", f"{path}:{node.lineno}"
        if called.startswith("yaml.") and "load" in called:
            assert path.name == "files.py", f"{path}:{node.lineno}"
            assert keywords == {"Loader": "_Loader"}, f"{path}:{node.lineno}"
