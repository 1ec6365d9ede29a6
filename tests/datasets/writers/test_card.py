from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from offline_marl.core.types import DataError
from offline_marl.datasets.writers.card import card, is_ours, section, sections_of
from offline_marl.datasets.writers.hub import Sums, Target

SAID: dict[str, Any] = {"licence": "MIT", "transitions": 30, "episodes": 6, "scenario": "ant", "name": "legs"}


def front(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---")[1])
    return found


@pytest.mark.parametrize(
    ("count", "size"),
    [(1, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (1_000_000, "1M<n<10M"), (10**9, "n>1B")],
)
def test_size_categories(count: int, size: str) -> None:
    text = card("t", section("hf://a/b/c", "c", {**SAID, "transitions": count}, None))
    assert front(text)["size_categories"] == [size]


def test_a_section_takes_the_place_of_its_older_self_and_leaves_others() -> None:
    first = card("t", section("hf://a/b/one", "one", SAID, None))
    both = card("t", section("hf://a/b/two", "two", {**SAID, "licence": "my own terms"}, "two.png"), first)
    again = card("t", section("hf://a/b/one", "one", {**SAID, "episodes": 77}, None), both)
    assert [each.file for each in sections_of(again)] == ["one", "two"]
    assert again.count("| episodes | 6 |") == 1 and again.count("| episodes | 77 |") == 1
    assert front(again)["license"] == "other" and front(again)["license_name"] == "mit-and-my-own-terms"
    assert front(first)["license"] == "mit" and "ant" in front(first)["tags"]
    assert card("t", sections_of(again)[0], again) == again


@pytest.mark.parametrize("text", ["# A page\n", "", "<!-- offline-marl {broken -->\nx<!-- /offline-marl -->"])
def test_pages_of_others_are_known_as_such(text: str) -> None:
    assert not is_ours(text)


def test_nothing_in_the_metadata_breaks_out_of_the_page() -> None:
    evil = "x\n---\n<script>|--> <!-- /offline-marl --> ](javascript:a)`"
    said = {**SAID, "name": evil, "how": evil, "scenario": evil, "licence": evil, "versions": {evil: evil}}
    text = card("t", section("hf://a/b/c", f"{evil}.safetensors", said, None))
    assert len(sections_of(text)) == 1 and sections_of(text)[0].scenario == evil
    assert card("t", sections_of(text)[0], text) == text
    page = re.sub("<!--.*?-->", "", text.partition("\n---\n\n")[2])
    assert "script" in page and not re.search(r"(?<!\\)[<|]script|(?<!\\)`$", page)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("hf://a/b", "x.safetensors"),
        ("hf://a/b/", "x.safetensors"),
        ("hf://datasets/a/b/c/", "c/x.safetensors"),
        ("hf://a/b/y.safetensors", "y.safetensors"),
    ],
)
def test_targets(uri: str, path: str) -> None:
    assert Target.parse(uri, "x.safetensors") == Target("a/b", path)


@pytest.mark.parametrize(
    "uri", ["hf://a", "hf://a/b/../x.safetensors", "hf://a/b/x.safetensors@1", "hf://a/b//x.safetensors"]
)
def test_targets_of_another_form_are_refused(uri: str) -> None:
    with pytest.raises(DataError, match="should be hf://owner/repo"):
        Target.parse(uri, "x.safetensors")


def test_checksums_are_gits_and_sha256(tmp_path: Any) -> None:
    (tmp_path / "x").write_bytes(b"hello\n")
    sums = Sums.of(tmp_path / "x")
    assert sums.git == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert sums.sha256.startswith("5891b5b522d5df086d0ff0b110fbd9d2")
