"""The file of the root's MLflow database: how it is put in place, set aside, and adapted to a moved root.

The database is only a view of the journals, so a broken one is not repaired: a new one takes its place. This
module uses SQLite alone, not MLflow. Its callers hold the root's lock.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from completedp.files import free_name
from completedp.runs.journal import sync

# SQLite keeps these beside a database. One that is left behind would be rolled back into the next database.
_BESIDE = ("-journal", "-wal", "-shm")

# SQLite's errors with a cause outside the database. Any other error means that the database is broken.
_OUTSIDE_CAUSES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_PROTOCOL,
}


def is_missing(database: Path) -> bool:
    """Whether there is no database. SQLite leaves an empty file where it found none."""
    return not database.exists() or (database.is_file() and database.stat().st_size == 0)


def says_broken(error: BaseException) -> bool:
    """Whether an error in opening a database means that it is broken, not locked, unreadable or out of
    room."""
    chain = list(_chain(error))
    codes = {_code(e) for e in chain if isinstance(e, sqlite3.Error)}
    return not codes & _OUTSIDE_CAUSES and not any(isinstance(e, OSError) for e in chain)


def says_in_use(error: BaseException) -> bool:
    """Whether a reader met a writer at work, or the traces of one that was killed at work."""
    in_use = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY}
    return any(_code(e) in in_use for e in _chain(error) if isinstance(e, sqlite3.Error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _code(error: sqlite3.Error) -> int | None:
    """SQLite's error code without the details in its higher bits."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF


def new_name(database: Path) -> Path:
    """The name under which a database is made before it is put in place."""
    return database.with_name(f"{database.name}.new-{os.urandom(4).hex()}")


def remove_unfinished(database: Path) -> None:
    """Remove databases that a killed process has left half made."""
    for path in database.parent.glob(f"{database.name}.new-*"):
        path.unlink(missing_ok=True)


def put_in_place(new: Path, database: Path) -> None:
    """Give a whole database its name in one step. It is on the disk before that."""
    sync(new)
    for end in _BESIDE:
        database.with_name(database.name + end).unlink(missing_ok=True)
    os.replace(new, database)
    sync(database.parent)


def set_aside(database: Path) -> Path:
    """Rename a broken database and SQLite's files beside it to the first free `<name>.broken-<n>`."""
    aside = free_name(database, "broken")
    for end in _BESIDE:
        beside = database.with_name(database.name + end)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + end))
    database.rename(aside)
    return aside


def relocate(database: Path, experiment: str, artifacts: str) -> None:
    """Change the places of artifacts after a root was copied or moved.

    `artifacts` is the URI of their folder now. Raises `sqlite3.Error` if the database is broken or in use.
    """
    with closing(_connected(database, "rw")) as connection, connection:
        rows = connection.execute(
            "SELECT artifact_location FROM experiments WHERE name = ?", (experiment,)
        ).fetchall()
        for (before,) in rows:
            if before == artifacts:
                continue
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                connection.execute(
                    f"UPDATE {table} SET {column} = :now || substr({column}, :length + 1) "
                    f"WHERE {column} = :before OR substr({column}, 1, :length + 1) = :before || '/'",
                    {"now": artifacts, "before": before, "length": len(before)},
                )


def copy_schema(database: Path, copy: Path) -> None:
    """Read every page of a database, and make a copy with its tables and version but no rows.

    The database itself stays unchanged. Raises `sqlite3.Error` if it is broken or in use.
    """
    with (
        closing(_connected(database, "ro")) as connection,
        closing(sqlite3.connect(copy)) as written,
        written,
    ):
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        statements = connection.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' "
            "ORDER BY type = 'table' DESC"
        )
        for (statement,) in statements.fetchall():
            written.execute(statement)
        versions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        written.executemany("INSERT INTO alembic_version VALUES (?)", versions)


def columns(database: Path) -> set[tuple[str, str]]:
    """Every pair of a table's name and one of its columns' names."""
    with closing(_connected(database, "ro")) as connection:
        return set(
            connection.execute(
                "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c "
                "WHERE m.type = 'table'"
            )
        )


def _connected(database: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.as_uri()}?mode={mode}", uri=True)
