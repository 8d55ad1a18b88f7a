"""The names of everything under a root, in one file.

studies/<name>/                            a search: journal, curves, recipe, figures
runs/<name>/                               the training of a plan
speedups/<study>/, transfer-checks/<study>/    the runs of these measurements
proxies/<digest>/                          the runs of a measured proxy
data/                                      prepared corpora
mlflow.db, artifacts/                      the MLflow view, which can be rebuilt from the rest
"""

from __future__ import annotations

from pathlib import Path

DEFAULT = Path("mlruns")
STUDIES, RUNS = "studies", "runs"
SPEEDUPS, TRANSFER_CHECKS = "speedups", "transfer-checks"
PROXIES = "proxies"
DATABASE, DATABASE_LOCK, ARTIFACTS = "mlflow.db", "mlflow.lock", "artifacts"
# In the folder of a study, or of a measurement's runs.
JOURNAL, CURVES, LOCK, LOGS = "journal.jsonl", "curves", "lock", "logs"
# In the folder of a study only. `STUDY` is its configuration; Ax opens `EXPERIMENT`.
STUDY, RECIPE, SUMMARY = "study.yaml", "recipe.yaml", "summary.json"
EXPERIMENT, FIGURES = "experiment.json", "figures"


def data_cache(root: Path) -> Path:
    """The folder of prepared corpora. Absolute, because a worker may run in another folder."""
    return root.resolve() / "data"
