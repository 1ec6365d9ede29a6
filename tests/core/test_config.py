from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from offline_marl.core.config import Config, ConfigError, build, explain, load_settings, suggest


class Inner(Config):
    depth: int = 1


class Sample(Config):
    name: str
    lr: Annotated[float, Field(gt=0.0)] = 0.1
    """Step size."""
    hidden: tuple[int, ...] = (4, 4)
    inner: Inner = Inner()


def refused(settings: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build(Sample, settings)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_good_settings_become_a_frozen_config() -> None:
    config = build(Sample, {"name": "a", "hidden": [8]})
    assert config == Sample(name="a", hidden=(8,))
    with pytest.raises(ValidationError):
        config.lr = 0.2


def test_a_config_survives_json() -> None:
    config = Sample(name="a", lr=1e-5, inner=Inner(depth=3))
    assert Sample.model_validate_json(config.model_dump_json()) == config


def test_the_string_beneath_a_field_is_its_description() -> None:
    assert Sample.model_fields["lr"].description == "Step size."


def test_a_misspelt_field_is_named_and_the_right_one_suggested() -> None:
    message = refused({"name": "a", "hiden": [3]})
    assert "Unknown field 'hiden'" in message and "did you mean 'hidden'?" in message


def test_a_strange_field_is_answered_with_all_fields() -> None:
    assert "there are: hidden, inner, lr, name" in refused({"name": "a", "zzz": 3})


def test_a_bad_value_is_named_with_what_would_be_right() -> None:
    assert refused({"name": "a", "lr": -1.0}) == "Field 'lr' cannot be -1.0: input should be greater than 0."
    assert "Field 'hidden.1' cannot be 'wide'" in refused({"name": "a", "hidden": [3, "wide"]})
    assert "Field 'inner.depth'" in refused({"name": "a", "inner": {"depth": "deep"}})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    assert "Field 'lr'" in refused({"name": "a", "lr": value})


def test_a_missing_field_is_named() -> None:
    assert refused({}) == "Field 'name' is missing."


def test_a_field_of_one_of_several_types_is_told_them_all() -> None:
    class Either(Config):
        share: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
        widths: tuple[Annotated[int, Field(ge=1)], ...] = (1,)

    with pytest.raises(ConfigError, match="^Field 'share' cannot be -1: input should be greater than 0, or 'auto'.$"):
        build(Either, {"share": -1})
    with pytest.raises(
        ConfigError, match="^Field 'widths.0' cannot be 0: input should be greater than or equal to 1.$"
    ):
        build(Either, {"widths": (0, 0)})


def test_explain_speaks_of_the_first_error_only() -> None:
    with pytest.raises(ValidationError) as caught:
        Sample.model_validate({"lr": -1, "other": 2})
    assert explain(caught.value, Sample.model_fields) == "Field 'name' is missing."


def test_suggest_with_nothing_known_says_so() -> None:
    assert suggest("anything", []) == "there are: none"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.toml", 'name = "a"\nhidden = [8, 8]\n[inner]\ndepth = 2\n'),
        ("a.yaml", "name: a\nhidden: [8, 8]\ninner:\n  depth: 2\n"),
        ("a.yml", "{name: a, hidden: [8, 8], inner: {depth: 2}}"),
        ("a.json", '{"name": "a", "hidden": [8, 8], "inner": {"depth": 2}}'),
    ],
)
def test_toml_yaml_and_json_say_the_same(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8")
    expected = Sample(name="a", hidden=(8, 8), inner=Inner(depth=2))
    assert build(Sample, load_settings(tmp_path / file)) == expected


def test_an_empty_yaml_file_holds_no_settings(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# nothing yet\n", encoding="utf-8")
    assert load_settings(tmp_path / "a.yaml") == {}


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("a.toml", b"name = \n", "cannot be read"),
        ("a.yaml", b"name: [1, 2\nother: }", "cannot be read"),
        ("a.yaml", b"!!python/object/apply:os.getcwd []", "cannot be read"),
        ("a.json", b'{"name": ', "cannot be read"),
        ("a.json", b"\xff\xfe\x00", "cannot be read"),
        ("a.ini", b"name = 1", "its ending is '.ini'"),
        ("a.json", b"[1, 2]", "should hold named fields, not a list"),
        ("a.yaml", b"just words", "should hold named fields, not a str"),
    ],
)
def test_a_broken_file_is_refused_in_one_sentence(tmp_path: Path, file: str, content: bytes, reason: str) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_settings(tmp_path / file)
    assert file in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no config file .*none.toml"):
        load_settings(tmp_path / "none.toml")
