"""Every place under a root: what is where, in one file.

studies/<name>/          a search: journal, curves, recipe, figures
runs/<name>/             the training of a plan
speedups/<study>/        the runs of `speedup`;  transfer-checks/<study>/ those of `transfer-check`
data/                    prepared corpora
mlflow.db, artifacts/    the MLflow view, which can be rebuilt from the rest
"""

from __future__ import annotations

from pathlib import Path

DEFAULT = Path("mlruns")
JOURNAL = "journal.jsonl"
LOCK = "lock"
CURVES = "curves"
LOGS = "logs"


def studies(root: Path) -> Path:
    return root / "studies"


def runs(root: Path) -> Path:
    return root / "runs"


def speedups(root: Path, recipe: Path) -> Path:
    """The runs that measure a recipe, known by the folder that the recipe is in: its study's name."""
    return root / "speedups" / recipe.resolve().parent.name


def transfer_checks(root: Path, recipe: Path) -> Path:
    """As `speedups`."""
    return root / "transfer-checks" / recipe.resolve().parent.name


def data_cache(root: Path) -> Path:
    """Prepared corpora. Absolute, because a worker may run in another folder."""
    return root.resolve() / "data"


def database(root: Path) -> Path:
    return root / "mlflow.db"


def database_lock(root: Path) -> Path:
    return root / "mlflow.lock"


def artifacts(root: Path) -> Path:
    return root / "artifacts"
