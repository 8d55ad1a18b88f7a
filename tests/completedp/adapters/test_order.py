"""Types that the order of a model's modules corrects."""

import pytest
import torch
from external_models import Stream
from torch import nn

from completedp.adapters.infer import inventory_of
from completedp.errors import UserError


def meta(width: int, *, post_norm: bool = False, norm_first: bool = False) -> nn.Module:
    with torch.device("meta"):
        return Stream(width, post_norm=post_norm, norm_first=norm_first)


@pytest.mark.parametrize("post_norm", [False, True])
def test_a_norm_that_ends_a_branch_is_known_by_the_code(post_norm: bool) -> None:
    models = (meta(width, post_norm=post_norm) for width in (64, 32))
    types = {s.name: s.module_type for s in inventory_of(*models).whole}
    norms = [types[f"blocks.1.norm{i}.weight"] for i in (1, 2)]
    if post_norm:
        assert norms == ["attention_post_norm", "ffn_post_norm"]
    else:
        assert norms == ["attention_norm", "ffn_norm"]
    assert types["norm.weight"] == "final_norm"


def test_a_pattern_of_the_users_is_left_as_it_is() -> None:
    models = (meta(width, post_norm=True) for width in (64, 32))
    found = inventory_of(*models, modules=[("norm1", "other_norm")])
    types = {s.name: s.module_type for s in found.whole}
    assert types["blocks.1.norm1.weight"] == "other_norm"
    assert types["blocks.1.norm2.weight"] == "ffn_post_norm"


def test_a_norm_on_the_embedding_is_no_final_norm() -> None:
    models = (meta(width, norm_first=True) for width in (64, 32))
    with pytest.raises(
        UserError, match=r"norm\.weight is taken for the final norm .* before the layers"
    ):
        inventory_of(*models)


def test_code_that_does_not_run_on_the_meta_device_is_read_by_its_names() -> None:
    models = [meta(width, post_norm=True) for width in (64, 32)]
    for model in models:
        model.register_forward_pre_hook(lambda *_: float(torch.zeros(1, device="meta")))
    types = {s.name: s.module_type for s in inventory_of(*models).whole}
    assert types["blocks.1.norm1.weight"] == "attention_norm"
    assert all(module.training for module in models[1].modules())
