"""Recorded searches, replayed: the proposals are those of the version that trained them."""

from typing import Any

import pytest
from studies import recorded

from search.proposer import Proposer
from search.study import Study


def no_job(trial: int, *_: Any, **__: Any) -> Any:
    return trial


@pytest.mark.parametrize(
    ("name", "trial"),
    [
        ("trust-region-0", 1),  # global
        ("trust-region-0", 46),  # the first per-module one
        ("trust-region-0", 80),
        ("trust-region-0", 197),  # the second of the confirmation
        ("trust-region-bo-0", 60),
    ],
)
def test_a_recorded_proposal_is_made_again(name: str, trial: int) -> None:
    records = recorded(name)
    at = next(i for i, r in enumerate(records) if r["event"] == "proposed" and r["trial"] == trial)
    study = Study.from_records(records[:at], name)
    written: list[Any] = []
    proposer = Proposer(study, written.append, no_job)
    for _ in range(len(study.pending) + 1):  # those that were training then come first
        proposer.next()
    assert written == [records[at]]
