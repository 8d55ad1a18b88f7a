"""A model family by its name on the command line: `hf:CONFIG.json`, or a user's `package.module:factory`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import nn

from completedp import trust
from completedp.errors import UserError, needs

if TYPE_CHECKING:
    from transformers import PretrainedConfig


# The key in a file that names the same function as an option.
_KEYS = {"--model": "model.source", "--loop": "train.loop"}


class ModelSource(Protocol):
    """A family of models: the same code at any width and depth."""

    @property
    def own(self) -> tuple[int, int] | None:
        """The source's own width and depth, or None if it has none."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user, before anything is built."""

    def build(self, width: int, depth: int, device: str = "meta") -> nn.Module:
        """The model at that size, with the initial values of its own code."""


@dataclass(frozen=True, kw_only=True)
class HuggingFaceSource:
    """A causal language model of transformers, from its configuration."""

    config: PretrainedConfig
    notes: tuple[str, ...] = ()

    @property
    def own(self) -> tuple[int, int] | None:
        from completedp.adapters.huggingface import size_of

        return size_of(self.config)

    def build(self, width: int, depth: int, device: str = "meta") -> nn.Module:
        from completedp.adapters.huggingface import build, config_at

        model: nn.Module = build(config_at(self.config, width=width, depth=depth), device)
        return model


@dataclass(frozen=True, kw_only=True)
class FactorySource:
    """`factory(width=, depth=)` returns the model."""

    name: str
    factory: Callable[..., Any]
    notes: tuple[str, ...] = ()

    @property
    def own(self) -> tuple[int, int] | None:
        return None

    def build(self, width: int, depth: int, device: str = "meta") -> nn.Module:
        try:
            with torch.device(device):
                model = self.factory(width=width, depth=depth)
        except torch.OutOfMemoryError:
            raise  # memory may be free later: no mistake in the user's code
        except Exception as error:  # whatever the user's code raises
            raise UserError(
                f"{self.name}(width={width}, depth={depth}) failed ({error!r}); expected a function of these "
                "two keywords that returns the model"
            ) from error
        if not isinstance(model, nn.Module):
            raise UserError(
                f"{self.name} returned {type(model).__name__}; expected a torch.nn.Module"
            )
        for name, parameter in model.named_parameters():
            if nn.parameter.is_lazy(parameter):
                raise UserError(
                    f"{self.name}: {name} has no shape yet (a lazy module); give its sizes"
                )
        return model


def source_of(name: str, vocab_size: int | None = None) -> ModelSource:
    """The family that `name` means. A configuration's vocabulary is set to `vocab_size` if that is given.

    Raises `UserError` if there is no such family.
    """
    if name.startswith("hf:"):
        if name == "hf:":
            raise UserError("--model hf: names no file; give hf:CONFIG.json")
        with needs("transformers", f"--model {name}", "'completedp[hf]'"):
            from completedp.adapters.huggingface import config_of, read_file, with_vocabulary
        file = read_file(Path(name.removeprefix("hf:")))
        config = config_of(file)
        if vocab_size is not None:
            config = with_vocabulary(config, vocab_size)
        return HuggingFaceSource(config=config, notes=file.notes)
    if not all(name.partition(":")):
        raise UserError(
            f"--model is {name!r}; expected hf:CONFIG.json, or package.module:factory, a function of "
            "width and depth"
        )
    return FactorySource(name=name, factory=imported("--model", name))


def imported(option: Literal["--model", "--loop"], name: str) -> Callable[..., Any]:
    """The user's function `package.module:function`, named by an option or in a file.

    Raises `UserError` if there is no such function, or if the user has not allowed it.
    """
    trust.check(_KEYS[option], name)
    module_name, _, attribute = name.partition(":")
    # A console script has its own folder on the path, not the user's. The user's folder comes last, so that
    # no file in it hides a package of the same name.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # whatever the user's code raises
        raise UserError(
            f"{option} {name}: {error}; expected a module that can be imported from here, and a function "
            "in it"
        ) from error
    if not callable(factory):
        raise UserError(
            f"{option} {name}: {attribute} is {type(factory).__name__}; expected a function"
        )
    found: Callable[..., Any] = factory
    return found
