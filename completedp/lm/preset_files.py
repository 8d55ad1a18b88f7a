"""Presets: study configurations that ship with the package as YAML files."""

from __future__ import annotations

from pathlib import Path

from completedp import files, validation
from completedp.config import StudyConfig, without_stopping
from completedp.errors import UserError, nearest, shown

_FOLDER = Path(__file__).parent / "presets"


def preset_names() -> tuple[str, ...]:
    """The names of the shipped presets, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def preset_path(name_or_path: str) -> Path:
    """The file of a preset, given by its name or as a path. Raises `UserError` for an unknown name."""
    names = preset_names()
    if name_or_path in names:
        return _FOLDER / f"{name_or_path}.yaml"
    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    raise UserError(
        f"unknown preset {name_or_path!r}{nearest(name_or_path, names)} (or give a .yaml file)"
    )


def load_preset(name_or_path: str) -> StudyConfig:
    """The study configuration of a preset or of a YAML file, such as a study's own `study.yaml`.

    Raises `UserError` for an unknown name, an unreadable file, or a wrong key. The error names the key.
    """
    path = preset_path(name_or_path)
    data = files.read_yaml(path)
    content = without_stopping(data)
    if content != data and data["search"]["stopping"] != "none":
        raise UserError(
            f"{path}: search.stopping is {shown(data['search']['stopping'])}; trials are no longer stopped "
            "early: take the key out"
        )
    return validation.validate(StudyConfig, content, str(path))
