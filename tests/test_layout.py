"""The house rules that a tool can check: who imports whom, how light the package is, what is never called."""

import ast
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


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_floors(path: Path) -> None:
    """`completedp` imports neither of the others, but in its command line; they never meet."""
    room = path.relative_to(REPOSITORY).parts
    refused = {
        "completedp": set() if room[:2] == ("completedp", "cli") else {"search", "transfer"},
        "search": {"transfer"},
        "transfer": {"search"},
    }[room[0]]
    assert refused.isdisjoint(name.split(".")[0] for name in imports(path))


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
