"""The file of the root's MLflow database: made aside and put in place, set aside where it is broken, moved.

It is only a view of the journals, so nobody mends a broken one: a new one takes its place. SQLite alone, not
MLflow, is at work here; who calls holds the root's lock.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

# SQLite keeps these beside a database. One that is left there would be rolled back into the next database.
_BESIDE = ("-journal", "-wal", "-shm")

# SQLite's errors that are the fault of what surrounds a database; any other is the database's own.
_NOT_ITS_OWN = {
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
    """Whether there is none; SQLite makes an empty file where it looks for one."""
    return not database.exists() or (database.is_file() and database.stat().st_size == 0)


def says_broken(error: BaseException) -> bool:
    """Whether an error in opening a database says that it is broken, rather than locked, unreadable or
    without room."""
    chain = list(_chain(error))
    codes = {_code(e) for e in chain if isinstance(e, sqlite3.Error)}
    return not codes & _NOT_ITS_OWN and not any(isinstance(e, OSError) for e in chain)


def says_in_use(error: BaseException) -> bool:
    """Whether a reader found a database that is being written, or was when its writer was killed."""
    in_use = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY}
    return any(_code(e) in in_use for e in _chain(error) if isinstance(e, sqlite3.Error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _code(error: sqlite3.Error) -> int | None:
    """Without the details that SQLite keeps in the higher bits."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF


def new_name(database: Path) -> Path:
    """Where the next database is made, before it is put in place."""
    return database.with_name(f"{database.name}.new-{os.urandom(4).hex()}")


def remove_unfinished(database: Path) -> None:
    """Remove what a process that was killed while making a database has left."""
    for path in database.parent.glob(f"{database.name}.new-*"):
        path.unlink(missing_ok=True)


def put_in_place(new: Path, database: Path) -> None:
    """A whole database takes its name at once, and is on the disk by then."""
    with new.open("rb") as file:
        os.fsync(file.fileno())
    for end in _BESIDE:
        database.with_name(database.name + end).unlink(missing_ok=True)
    os.replace(new, database)
    folder = os.open(database.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def set_aside(database: Path) -> Path:
    """Rename a broken database, with what SQLite left beside it, to the first free `<name>.broken-<n>`."""
    names = (database.with_name(f"{database.name}.broken-{n}") for n in itertools.count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    for end in _BESIDE:
        beside = database.with_name(database.name + end)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + end))
    database.rename(aside)
    return aside


def relocate(database: Path, experiment: str, artifacts: str) -> None:
    """In the database of a root that was copied or moved, artifacts are where they are now.

    `artifacts` is the URI of their folder. Raises `sqlite3.Error` if the database is broken or in use.
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
    """Look at every page of a database, and make one of its tables alone, which holds its version.

    Changes nothing of the database. Raises `sqlite3.Error` if it is broken or in use.
    """
    with (
        closing(_connected(database, "ro")) as connection,
        closing(sqlite3.connect(copy)) as written,
        written,
    ):
        (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            raise sqlite3.DatabaseError(said)
        statements = connection.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' "
            "ORDER BY type = 'table' DESC"
        )
        for (statement,) in statements.fetchall():
            written.execute(statement)
        versions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        written.executemany("INSERT INTO alembic_version VALUES (?)", versions)


def columns(database: Path) -> set[tuple[str, str]]:
    """Every table's name with the name of each of its columns."""
    with closing(_connected(database, "ro")) as connection:
        return set(
            connection.execute(
                "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c "
                "WHERE m.type = 'table'"
            )
        )


def _connected(database: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.as_uri()}?mode={mode}", uri=True)
