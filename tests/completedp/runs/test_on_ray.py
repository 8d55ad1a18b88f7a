"""The Ray executor on a cluster of several node processes here, one of them killed in mid-trial."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_tasks import HERE, job

from completedp.errors import UserError
from completedp.runs import engine
from completedp.runs.job import Died, Event, Finished, Outcome, Progress
from completedp.runs.sweep import ListSource

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

from completedp.runs.on_ray import RayExecutor  # noqa: E402

pytestmark = [pytest.mark.timeout(180), pytest.mark.filterwarnings("ignore::FutureWarning:ray")]
SECONDS = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and one node with a core each."""
    store = {"object_store_memory": 80_000_000}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, **store},
    )
    cluster.add_node(num_cpus=1, **store)
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def executor(cluster: Any) -> Iterator[RayExecutor]:
    with RayExecutor(paths=[HERE]) as executor:
        yield executor


def until_ends(executor: RayExecutor, count: int = 1) -> list[Event]:
    events: list[Event] = []
    limit = time.monotonic() + SECONDS
    while sum(not isinstance(e, Progress) for e in events) < count:
        assert time.monotonic() < limit, events
        events += executor.poll(0.5)
    return events


def test_jobs_finish_with_their_own_outcomes(executor: RayExecutor) -> None:
    assert executor.capacity == 2
    for trial in (3, 4):
        executor.submit(job(trial, seed=trial, final=str(trial)))
    ends = [e.outcome for e in until_ends(executor, 2) if isinstance(e, Finished)]
    assert {(o.trial, o.loss, o.seed, o.status) for o in ends} == {
        (3, 3.0, 3, "completed"),
        (4, 4.0, 4, "completed"),
    }
    assert all(outcome.curve for outcome in ends)


def test_deaths_and_mistakes_are_told_apart(executor: RayExecutor) -> None:
    executor.submit(job(1, "raises"))
    assert until_ends(executor)[-1] == Died(trial=1, reason="RuntimeError: no memory left")
    executor.submit(job(2, "mistaken"))
    died = until_ends(executor)[-1]
    assert isinstance(died, Died)
    assert died.mistake


def test_progress_reaches_the_coordinator(executor: RayExecutor) -> None:
    executor.submit(job(7, n=200, pause=0.02))
    limit = time.monotonic() + SECONDS
    while not any(isinstance(e, Progress) for e in executor.poll(0.2)):
        assert time.monotonic() < limit
    end = until_ends(executor)[-1]
    assert isinstance(end, Finished)
    assert end.outcome.steps == 200


def test_a_node_killed_in_mid_trial_costs_an_attempt(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    cluster.wait_for_nodes()
    jobs = [job(trial, n=60, pause=0.1) for trial in range(6)]
    source = ListSource(jobs)
    ended: list[Outcome] = []
    died: list[Died] = []
    running: set[int] = set()

    def on_event(event: Event) -> None:
        if isinstance(event, Progress):
            running.add(event.trial)
            # three are under way on three places, so one of them is on this node
            if len(running) == 3 and node in cluster.worker_nodes:
                cluster.remove_node(node, allow_graceful=False)
            return
        if isinstance(event, Finished):
            ended.append(event.outcome)
            running.discard(event.outcome.trial)
        else:
            died.append(event)
            running.discard(event.trial)

    with RayExecutor(paths=[HERE]) as executor:
        assert executor.capacity == 3
        assert engine.run(source, executor, curves=tmp_path, on_event=on_event)
        limit = time.monotonic() + SECONDS
        while executor.capacity != 2:  # until Ray's health check has missed the node
            assert time.monotonic() < limit
            time.sleep(0.5)
    assert sorted(outcome.trial for outcome in ended) == list(range(6))
    assert [type(e) for e in died] == [Died]
    assert not died[0].mistake


def test_more_than_the_cluster_has(cluster: Any) -> None:
    with pytest.raises(UserError, match="no node with 1 GPU;"):
        RayExecutor(device="cuda")


def test_no_process_trains_twice_on_gpus(cluster: Any, tmp_path: Path) -> None:
    """One that has begun on a GPU stays on it, whichever the next job is given. Pretended GPUs."""
    cluster.add_node(num_cpus=0, num_gpus=1, object_store_memory=80_000_000)
    cluster.wait_for_nodes()
    with RayExecutor(device="cuda", paths=[HERE]) as executor:
        for trial in range(2):
            executor.submit(job(trial, "announce", path=str(tmp_path / f"{trial}"), seconds=0.01))
            until_ends(executor)
    assert (tmp_path / "0").read_text() != (tmp_path / "1").read_text()
