"""The root's database is whole, wherever it was broken, moved or left half made."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from completedp import doctor
from completedp.errors import UserError
from completedp.tracking import database, track
from completedp.tracking.store import Store

MakeStudy = Callable[..., Path]
HALF_MIGRATED = "0584bdc529eb"


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def changed(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def without_tables(path: Path) -> None:
    path.unlink()
    changed(path, "PRAGMA user_version = 1")


def half_migrated(path: Path) -> None:
    """The newest tables are there, the version is that of an older one."""
    changed(path, f"UPDATE alembic_version SET version_num = '{HALF_MIGRATED}'")


def without_a_table(path: Path) -> None:
    changed(path, "DROP TABLE runs")


def of_the_future(path: Path) -> None:
    changed(path, "UPDATE alembic_version SET version_num = 'ffffffffffff'")


BREAKS = [garbage, truncated, without_tables, half_migrated, without_a_table, of_the_future]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a database and nothing else, to be copied."""
    root = tmp_path_factory.mktemp("whole")
    Store(root)
    return root


@pytest.fixture
def fresh(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "root"))


def runs(root: Path) -> list[Any]:
    store = Store(root)
    return list(store.client.search_runs([store.experiment_id], max_results=1000))


def names(root: Path) -> set[str]:
    return {path.name for path in root.glob("mlflow.db*")}


@pytest.mark.parametrize("breaks", BREAKS)
def test_a_broken_database_is_set_aside_and_all_is_rebuilt(
    fresh: Path, make_study: MakeStudy, breaks: Callable[[Path], None]
) -> None:
    for name in ("one", "two"):
        shutil.copytree(make_study(name, 6), fresh / "studies" / name)
    path = fresh / "mlflow.db"
    breaks(path)
    content = path.read_bytes()
    (fresh / "mlflow.db.broken-1").write_text("an earlier one")
    finding = next(doctor._mlflow(fresh))
    assert finding.state == "fault"
    assert "is broken" in finding.message
    assert "'completedp track' sets it aside and makes a new one" in finding.message
    assert path.read_bytes() == content
    assert names(fresh) == {"mlflow.db", "mlflow.db.broken-1"}, "doctor only looks"
    lines: list[str] = []
    assert [synced.written for synced in track(fresh, "one", lines.append)] == [6, 6]
    (line,) = lines
    assert f"{path} was broken (" in line
    assert "it is now mlflow.db.broken-2" in line
    assert "'completedp track'" in line
    assert len(runs(fresh)) == 14
    assert names(fresh) == {"mlflow.db", "mlflow.db.broken-1", "mlflow.db.broken-2"}
    if breaks in (garbage, truncated):  # MLflow tries to mend the others
        assert (fresh / "mlflow.db.broken-2").read_bytes() == content
    assert next(doctor._mlflow(fresh)).state == "ok"


def test_a_page_that_is_found_damaged_in_use_is_a_broken_database(
    fresh: Path, make_study: MakeStudy
) -> None:
    shutil.copytree(make_study("paged", 8), fresh / "studies" / "paged")
    track(fresh)
    path = fresh / "mlflow.db"
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'tags'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    assert "is broken" in next(doctor._mlflow(fresh)).message
    lines: list[str] = []
    assert [synced.written for synced in track(fresh, warn=lines.append)] == [8]
    assert len(lines) == 1
    assert len(runs(fresh)) == 9


def test_a_locked_database_is_left_and_so_is_one_that_cannot_be_replaced(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fresh / "mlflow.db"
    connect = sqlite3.connect
    monkeypatch.setattr(
        "completedp.tracking.database.sqlite3.connect",
        lambda *given, **more: connect(*given, **more, timeout=0.1),
    )
    with closing(connect(path, isolation_level=None)) as held:
        held.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match="database is locked"):
            Store(fresh)
        assert next(doctor._mlflow(fresh)).state == "note"
    garbage(path)

    def full(self: Store, client: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_create_experiment", full)
        with pytest.raises(UserError, match=r"cannot be written \(No space left"):
            Store(fresh)
    assert names(fresh) == {"mlflow.db"}


@pytest.mark.parametrize(
    ("code", "broken"),
    [
        ("SQLITE_BUSY", False),
        ("SQLITE_BUSY_SNAPSHOT", False),
        ("SQLITE_FULL", False),
        ("SQLITE_READONLY", False),
        ("SQLITE_READONLY_DBMOVED", False),
        ("SQLITE_CANTOPEN", False),
        ("SQLITE_IOERR_WRITE", False),
        ("SQLITE_CORRUPT", True),
        ("SQLITE_NOTADB", True),
        ("SQLITE_ERROR", True),
    ],
)
def test_what_an_error_says_of_the_database(code: str, broken: bool) -> None:
    error = sqlite3.OperationalError("said by SQLite")
    error.sqlite_errorcode = getattr(sqlite3, code)
    wrapped = RuntimeError("said by MLflow")
    wrapped.__cause__ = error
    assert database.says_broken(wrapped) is broken
    assert not database.says_broken(PermissionError(13, "Permission denied"))


MAKES = """
import os, signal, sys, traceback
from pathlib import Path
from completedp.tracking import store

def dies(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def make(root, moment):
    if moment == "migrating":
        import alembic.op
        create_table, left = alembic.op.create_table, [5]
        def counted(*given, **more):
            left[0] -= 1
            return create_table(*given, **more) if left[0] else dies()
        alembic.op.create_table = counted
    elif moment == "without its experiment":
        client.create_experiment = dies
    else:
        os.replace = dies
    store.Store(Path(root))

client = store.import_mlflow()
for moment in sys.argv[2:]:
    pid = os.fork()
    if pid == 0:
        try:
            make(os.path.join(sys.argv[1], moment), moment)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
MOMENTS = ["migrating", "without its experiment", "before its name"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a root for each moment, left by forks of one process."""
    folder = tmp_path_factory.mktemp("killed")
    ended = run(MAKES, folder, *MOMENTS)
    assert ended.stdout.split() == ["-9"] * len(MOMENTS), ended.stderr
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_while_a_database_is_made_leaves_none_and_the_next_run_tidies(
    killed: Path, moment: str
) -> None:
    root = killed / moment
    left = names(root)
    assert left
    assert all(name.startswith("mlflow.db.new-") for name in left)
    Store(root)
    assert names(root) == {"mlflow.db"}


def test_what_sqlite_left_of_a_deleted_database_is_not_rolled_back_into_the_next(
    fresh: Path,
) -> None:
    """A journal holds the pages and the length as they were before: here of a database with one table."""
    path = fresh / "mlflow.db"
    path.unlink()
    changed(path, "CREATE TABLE one (x)")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")  # so that pages and their journal are written
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DROP TABLE one")
        connection.execute("CREATE TABLE many (x)")
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) "
            "INSERT INTO many SELECT randomblob(100) FROM n"
        )
        left = (fresh / "mlflow.db-journal").read_bytes()
    assert left
    path.unlink()
    (fresh / "mlflow.db-journal").write_bytes(left)
    store = Store(fresh)
    assert names(fresh) == {"mlflow.db"}
    assert ("one", "x") not in database.columns(store.database)


READS = """
import os, sys
from pathlib import Path
from completedp.tracking.store import import_mlflow
client_class = import_mlflow()
for line in sys.stdin:
    database, name = line.rstrip("\\n").split("\\t")
    client = client_class(f"sqlite:///{database}", f"sqlite:///{database}")
    (run,) = client.search_runs(["1"], f"tags.`mlflow.runName` = '{name}'")
    text = Path(client.download_artifacts(run.info.run_id, "summary.json")).read_text()
    print(text, flush=True)
"""


@pytest.fixture(scope="module")
def read() -> Iterator[Callable[[Path, str], str]]:
    """Reads the summary of a run in another process: MLflow remembers what it has opened."""
    command = [sys.executable, "-c", READS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout

        def summary(database: Path, name: str) -> str:
            print(database, name, sep="\t", file=asked, flush=True)
            return answers.readline()

        yield summary
        asked.close()


@pytest.mark.parametrize("how", ["copied", "moved", "through a link"])
def test_artifacts_open_where_the_root_is_now(
    fresh: Path,
    make_study: MakeStudy,
    tmp_path: Path,
    read: Callable[[Path, str], str],
    how: str,
) -> None:
    study = fresh / "studies" / "travels"
    shutil.copytree(make_study("travels", 6), study)
    (study / "summary.json").write_text('{"from": "here"}')
    track(fresh)
    there = tmp_path / "there & elsewhere"
    if how == "copied":
        shutil.copytree(fresh, there)
    elif how == "moved":
        fresh.rename(there)
    else:
        there.symlink_to(fresh)
    # The copy's own, so that what is read shows from where.
    for path in (there / "artifacts").rglob("summary.json"):
        path.write_text('{"from": "there"}')
    (synced,) = track(there)
    assert (synced.written, synced.unchanged, synced.removed) == (0, 6, 0)
    for path in (there / "artifacts").rglob("summary.json"):
        path.write_text('{"from": "there"}')
    assert read(there / "mlflow.db", "travels") == '{"from": "there"}\n'
    with closing(sqlite3.connect(there / "mlflow.db")) as connection:
        rows = connection.execute(
            "SELECT artifact_uri FROM runs UNION SELECT artifact_location FROM experiments "
            "WHERE name = 'completedp'"
        ).fetchall()
    now = (Path(os.path.realpath(there)) / "artifacts").as_uri()
    assert len(rows) == 8
    assert all(uri == now or uri.startswith(f"{now}/") for (uri,) in rows)


def test_a_move_that_cannot_be_finished_changes_nothing(fresh: Path) -> None:
    path = fresh / "mlflow.db"
    changed(path, "ALTER TABLE runs RENAME COLUMN artifact_uri TO elsewhere")
    with pytest.raises(sqlite3.OperationalError, match="artifact_uri"):
        database.relocate(path, "completedp", "file:///now")
    with closing(sqlite3.connect(path)) as connection:
        (uri,) = connection.execute(
            "SELECT artifact_location FROM experiments WHERE name = 'completedp'"
        ).fetchone()
    assert uri != "file:///now"


def test_doctor_of_a_database_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    assert next(doctor._mlflow(tmp_path)).message.startswith("no database yet")
    assert names(tmp_path) == {"mlflow.db"}
