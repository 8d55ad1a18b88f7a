"""Configurations of transformers as data: within bounds, and no name in them loads anything."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from external_models import FAMILIES, config
from transformers import PretrainedConfig
from typer.testing import CliRunner

from completedp.adapters import huggingface
from completedp.adapters.hf_files import read
from completedp.adapters.huggingface import build, config_of, read_file
from completedp.adapters.source import source_of
from completedp.cli.app import app
from completedp.errors import UserError

# The names of code in a hub's configuration: in a file beside it, and in another repository.
CODE = {
    "AutoConfig": "configuration_users.Config",
    "AutoModelForCausalLM": "else/where--modeling_users.Model",
}
USERS_CODE = """
from pathlib import Path
from transformers import LlamaConfig as Config
from transformers import LlamaForCausalLM as Model

Path("imported").touch()
"""


def written(folder: Path, family: str = "llama", **changes: Any) -> Path:
    content = json.loads(config(family).to_json_string(use_diff=False)) | changes
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return path


def config_from(path: Path) -> PretrainedConfig:
    return config_of(read_file(path))


def built(path: Path) -> Any:
    source = source_of(f"hf:{path}")
    assert source.own is not None
    return source.build(*source.own)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        built(path)
    assert len(str(error.value)) < 1000
    return str(error.value)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions that were asked on standard input."""
    questions: list[str] = []

    def answer(question: str = "") -> str:
        questions.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    return questions


@pytest.mark.parametrize("closed", [False, True], ids=["answers y", "closed"])
@pytest.mark.parametrize("nested", [False, True], ids=["at the top", "nested"])
def test_code_that_a_configuration_names_is_never_run(
    closed: bool, nested: bool, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if closed:
        monkeypatch.setattr("sys.stdin", None)
    for name in ("configuration_users", "modeling_users"):
        (tmp_path / f"{name}.py").write_text(USERS_CODE)
    code = {"users": {"auto_map": CODE}} if nested else {"auto_map": CODE}
    path = written(tmp_path, **code)
    assert type(built(path)).__module__ == "transformers.models.llama.modeling_llama"
    path = written(tmp_path, **code, model_type="users")
    said = refused(path)
    assert "has no 'users'" in said if not nested else "no model_type 'users'" in said
    assert asked == []
    assert not (tmp_path / "imported").exists()


def test_the_user_is_told_that_code_was_named_and_not_run(tmp_path: Path) -> None:
    path = written(tmp_path, auto_map=CODE)
    shown = CliRunner().invoke(app, ["inspect", "--model", f"hf:{path}"], input="y\n")
    assert shown.exit_code == 0, shown.exception
    assert "names code of its own (auto_map): none of it is run" in shown.stderr
    assert "Do you wish" not in shown.output
    path = written(tmp_path, auto_map=CODE, model_type="users")
    said = refused(path)
    assert "hf: runs nothing that a file names: give package.module:factory" in said
    assert source_of(f"hf:{written(tmp_path)}").notes == ()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("nested", [False, True], ids=["at the top", "nested"])
def test_kernels_are_not_fetched(key: str, nested: bool, tmp_path: Path) -> None:
    for name in ("kernels-community/flash-attn2", "flash_attention_2", "paged|sdpa", {"": "a/b"}):
        change = {"text_config": {key: name}} if nested else {key: name}
        assert f"{key} is {name!r}; expected eager, sdpa" in refused(written(tmp_path, **change))
    assert config_from(written(tmp_path, **{key: "eager"}))._attn_implementation == "eager"
    config_from(written(tmp_path, **{key: None}))


def test_other_models_are_not_fetched(tmp_path: Path) -> None:
    path = written(tmp_path, text_config={"backbone": "some/where"})
    assert "backbone is 'some/where', another model by its name" in refused(path)


def test_no_value_takes_the_place_of_another(tmp_path: Path) -> None:
    """A map of names in the file would let another value be read in the place of a checked one."""
    hidden = {"attribute_map": {"_attn_implementation_internal": "note"}, "note": "some/kernel"}
    found = config_from(written(tmp_path, **hidden, to_dict="x"))
    assert found._attn_implementation != "some/kernel"
    build(found)


def test_keys_that_do_not_describe_the_architecture_are_left_out(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        dtype="load", torch_dtype="hub", quantization_config={"quant_method": "gptq"}, num_labels=2**31,
        custom_pipelines={"a": {"impl": "b.C"}}, _name_or_path="some/where", name_or_path="some/where",
        configuration_files=["config.4.0.0.json"], __deepcopy__=3,
    )  # fmt: skip
    (tmp_path / "config.4.0.0.json").write_text("{}")
    plain = read(written(tmp_path)).content
    assert read(path).content == plain
    found = config_from(tmp_path)
    assert found.name_or_path == str(path)
    assert build(found).dtype.is_floating_point


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_beyond_every_model_are_refused_by_their_key(family: str, tmp_path: Path) -> None:
    names = config_from(written(tmp_path, family)).attribute_map
    for name, size, said in (
        ("num_hidden_layers", 10**9, "at most 4,096"),
        ("hidden_size", 2**19, "at most 262,144"),
        ("num_attention_heads", 10**9, "at most 262,144"),
        ("vocab_size", 10**12, "at most 2,147,483,648"),
        ("max_position_embeddings", 10**12, "at most 2,147,483,648"),
        ("num_nextn_predict_layers", 5000, "at most 4,096"),
        ("anything", -(10**10), "at most 2,147,483,648"),
        ("anything", 10**300, "at most 2,147,483,648"),
    ):
        key = names.get(name, name)
        said_of = refused(written(tmp_path, family, **{key: size}))
        assert f"config.json: {key} is " in said_of
        assert said in said_of
    text = {"vision": [{"sizes": [1, 2**40]}]}
    assert "text_config.vision.0.sizes.1 is 1099511627776" in refused(
        written(tmp_path, family, text_config=text)
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 20_000, "more than 60 levels deep"),
        ('{"model_type": "llama", "x": ' + "[" * 100 + "]" * 100 + "}", "more than 60 levels deep"),
        (
            '{"model_type": "llama", "rope_theta": 1e400}',
            "the number '1e400' is beyond every float",
        ),
        ('{"model_type": "llama", "x": ' + "9" * 5000 + "}", "a whole number of 5000 digits"),
        ('{"model_type": "llama"', "not JSON"),
        ("[]", "expected an object, got []"),
        ('{"model_type": ["llama"]}', "model_type is ['llama']"),
        ('{"model_type": "t5"}', "builds no causal language model from t5"),
        ('{"model_type": "llama", "hidden_size": "x"}', "expected int, got str (value: 'x')"),
        ('{"model_type": "gpt2", "n_head": 0}', "(ZeroDivisionError: "),
        ('{"model_type": "gpt2", "n_inner": 0.5}', "n_inner"),
        ('{"model_type": "llama", "num_hidden_layers": -3}', "num_hidden_layers is -3; expected"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_a_few_words(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    assert said in refused(path)


def test_an_empty_name_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written(tmp_path).parent)
    with pytest.raises(UserError, match="--model hf: names no file"):
        source_of("hf:")


def test_a_model_of_too_many_parts_is_refused_while_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface, "MOST_PARTS", 60)
    assert build(config("llama"))
    with pytest.raises(UserError, match="more than 60 modules and parameters"):
        build(config("llama", depth=4096))
    assert build(config("llama")), "the bound is of one model"


def test_the_logs_of_transformers_are_short(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("transformers")
    with huggingface._short_logs():
        logger.warning("a value: %s", "x" * 100_000)
        logger.warning("a short %s", "value")
    logged = [record.getMessage() for record in caplog.records]
    assert logged[1] == "a short value"
    assert logged[0].startswith("a value: x")
    assert "characters" in logged[0]
    assert len(logged[0]) < 1000
