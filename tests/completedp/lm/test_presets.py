"""The presets that ship, and files of the user's own."""

from pathlib import Path

import pytest

from completedp import files, models
from completedp.errors import UserError
from completedp.lm.preset_files import load_preset, preset_names, preset_path


def test_the_presets_are_what_they_say() -> None:
    assert preset_names() == ("cliff", "coordinates", "proxy-50m", "small", "tiny")
    wanted = {
        "tiny": (133.5e3, 5.9),
        "cliff": (41e3, 19),
        "coordinates": (133e3, 20),
        "small": (1.05e6, 20),
        "proxy-50m": (50e6, 32),
    }
    for name, (parameters, tokens_each) in wanted.items():
        preset = load_preset(name)
        count = models.parameter_count(preset.model)
        assert count == pytest.approx(parameters, rel=0.03)
        assert preset.train.tokens / count == pytest.approx(tokens_each, rel=0.03)
        assert preset.train.tokens % preset.train.batch == 0
    for name in ("tiny", "small", "proxy-50m"):
        assert load_preset(name).train.steps >= 1500, "shorter runs find what does not carry"
        assert load_preset(name).model.heads >= 4
    assert not load_preset("cliff").model.qk_norm
    assert load_preset("cliff").train.clip == 0


def test_a_copied_preset_is_a_preset(tmp_path: Path) -> None:
    copy = tmp_path / "mine.yaml"
    copy.write_text(preset_path("tiny").read_text())
    assert load_preset(str(copy)) == load_preset("tiny")
    files.write_yaml(copy, load_preset("proxy-50m").to_dict())
    assert load_preset(str(copy)) == load_preset("proxy-50m")


def test_unknown_presets_and_keys(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown preset 'tinny'; did you mean 'tiny'"):
        load_preset("tinny")
    with pytest.raises(UserError, match="no such file"):
        load_preset(str(tmp_path / "gone.yaml"))
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(preset_path("tiny").read_text().replace("  depth:", "  dept:"))
    with pytest.raises(UserError, match=r"model\.dept: unknown key; did you mean 'depth'"):
        load_preset(str(wrong))


def test_only_text_is_bound_to_the_bytes_vocabulary(tmp_path: Path) -> None:
    copy = tmp_path / "mine.yaml"
    text = preset_path("tiny").read_text().replace("vocab_size: 256", "vocab_size: 50304")
    copy.write_text(text)
    with pytest.raises(UserError, match="the bytes tokenizer has exactly 256"):
        load_preset(str(copy))
    copy.write_text(text.replace("source: embedded", "source: tokens.bin"))
    assert load_preset(str(copy)).model.vocab_size == 50304
