"""One writer a study: a lock the kernel gives back when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from completedp.errors import UserError


@contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    """Hold the lock file `path` of the study `name`, in a folder that exists.

    The file stays: removing it would let two processes lock two files of one name. Workers do not
    inherit it (descriptors close on exec). Raises `UserError` naming the holder where it is taken.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"study {name} is being written by {_holder(fd)}; wait for it, or end it"
            ) from None
        except OSError as error:
            raise UserError(
                f"{path}: cannot be locked ({error.strerror}); put the root on a file system with locks"
            ) from None
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(holder).encode(), 0)
        yield
    finally:
        os.close(fd)


def _holder(fd: int) -> str:
    try:
        holder = json.loads(os.pread(fd, 4096, 0))
        return f"process {holder['pid']} on host {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"  # which has not yet written its name
