"""One writer a folder, by a lock that the kernel releases when its holder ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from completedp.errors import UserError


class Held(UserError):
    """Another process is writing there."""


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a file's lock. Yields False if another process holds it. With `wait`, waits for that process.

    Raises `UserError` if the file cannot be made or locked.
    """
    fd = _open(path)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            raise _without_locks(path, error) from None
        yield True
    finally:
        os.close(fd)


class Lock:
    """`with Lock(folder / "lock"):` makes this process the one writer of an existing folder.

    `kind` is the folder's name in messages: a study, a sweep, a run.

    The file stays: without it two processes could lock two files of one name. Workers do not inherit the lock
    (descriptors close on exec). Entering raises `Held` with the holder's name if the lock is taken, and
    `UserError` if there can be no lock.
    """

    def __init__(self, path: Path, kind: str = "study") -> None:
        self._path = path
        self._kind = kind
        self._fd = -1

    def __enter__(self) -> Lock:
        self._fd = _open(self._path)
        try:
            self._take()
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def _take(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Held(
                f"{self._kind} {self._path.parent.name} is being written by {self._holder()}; "
                "wait for it, or end it"
            ) from None
        except OSError as error:
            raise _without_locks(self._path, error) from None
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(holder).encode(), 0)

    def _holder(self) -> str:
        try:
            holder = json.loads(os.pread(self._fd, 4096, 0))
            return f"process {holder['pid']} on host {holder['host']}"
        except (ValueError, KeyError, TypeError):
            return "another process"  # it has not written its name yet


def _open(path: Path) -> int:
    """Open the file, or make it. A symbolic link is refused: its target would be made or written."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(
                f"{path}: is a symbolic link; remove it, a lock is made in its place"
            ) from None
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); make it so, or give another --root"
        ) from None


def _without_locks(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot be locked ({error.strerror}); use a file system that has locks"
    )
