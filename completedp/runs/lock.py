"""One writer a folder: a lock the kernel gives back when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path

from completedp.errors import UserError


class Held(UserError):
    """Another process is writing there."""


class Lock:
    """`with Lock(folder / "lock"):` what is in that folder, which exists, has one writer.

    `kind` is what messages call it: a study, a sweep, a run.

    The file stays: removing it would let two processes hold two files of one name. Workers do not
    inherit the lock (descriptors close on exec). Entering raises `Held` naming the holder where it is
    taken, `UserError` where there can be no lock.
    """

    def __init__(self, path: Path, kind: str = "study") -> None:
        self._path = path
        self._kind = kind
        self._fd = -1

    def __enter__(self) -> Lock:
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"{self._path}: cannot be written ({error.strerror}); make it so, or give another --root"
            ) from None
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
            raise UserError(
                f"{self._path}: cannot be locked ({error.strerror}); use a file system that has locks"
            ) from None
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(holder).encode(), 0)

    def _holder(self) -> str:
        try:
            holder = json.loads(os.pread(self._fd, 4096, 0))
            return f"process {holder['pid']} on host {holder['host']}"
        except (ValueError, KeyError, TypeError):
            return "another process"  # which has not yet written its name
