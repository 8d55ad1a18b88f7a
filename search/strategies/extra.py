"""Strategies of other packages, which only the extra `baselines` installs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from completedp.errors import UserError


@contextmanager
def needs(package: str, strategy: str) -> Iterator[None]:
    """Around the import of `package`. Raises `UserError` that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"--strategy {strategy} needs {package} ({error}); install it by: "
            "pip install 'completedp[baselines]'"
        ) from None
