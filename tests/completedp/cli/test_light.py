"""The light verbs import little, and `--help` is quick."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from completedp.recipe import Recipe

HEAVY = {"torch", "ax", "botorch", "gpytorch", "mlflow", "numpy", "scipy", "pandas", "matplotlib"}
# Runs the program and then tells what it has loaded.
PROBE = """
import json, sys
from completedp.cli.app import main
try:
    main()
finally:
    print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})), file=sys.stderr)
"""


def loaded_by(arguments: list[str], folder: Path, status: int = 0) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["transfer-check", "--help"],
        ["coordcheck", "--help"],
        ["rules", "--width", "4"],
        ["transfer", "recipe.yaml", "--width", "64"],
        ["transfer", "recipe.yaml", "--flops", "1e14", "--json"],
        ["export", "recipe.yaml", "--format", "torch"],
        ["export", "recipe.yaml", "--format", "json"],
    ],
    ids=" ".join,
)
def test_light_verbs_load_nothing_heavy(
    arguments: list[str], recipe: Recipe, tmp_path: Path
) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    assert loaded_by(arguments, tmp_path) & HEAVY == set()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--budget", "11"],
        ["--budget", "12", "--workers", "0"],
        ["--budget", "12", "--executor", "slurm"],
        ["--resume", "none"],
        ["--resume", "none", "--preset", "tiny"],
    ],
    ids=" ".join,
)
def test_a_search_that_is_refused_does_not_wait_for_torch(
    arguments: list[str], tmp_path: Path
) -> None:
    loaded = loaded_by(["search", *arguments], tmp_path, status=2)
    assert loaded & (HEAVY - {"numpy"}) == set()


def test_the_program_itself_loads_no_file_format() -> None:
    script = "import sys, completedp.cli.app; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert {"pydantic", "yaml", "rich"} & set(done.stdout.split()) == set()
