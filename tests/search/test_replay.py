"""Recorded searches, replayed: global trials are proposed as by the version that trained them.

Per-module trials are not. That version held the global values fixed, and all its trials shared one seed.
"""

from typing import Any

import pytest
from studies import recorded

from search.proposer import Proposer
from search.study import Study


def no_job(trial: int, *_: Any, **__: Any) -> Any:
    return trial


@pytest.mark.parametrize(
    ("name", "trial"),
    [("trust-region-0", 1), ("trust-region-0", 40)],
)
def test_a_recorded_proposal_is_made_again(name: str, trial: int) -> None:
    records = recorded(name)
    at = next(i for i, r in enumerate(records) if r["event"] == "proposed" and r["trial"] == trial)
    study = Study.from_records(records[:at], name)
    written: list[Any] = []
    proposer = Proposer(study, written.append, no_job)
    for _ in range(len(study.pending) + 1):  # those that were training then come first
        proposer.next()
    (made,) = written
    assert made | {"seed": records[at]["seed"]} == records[at]
