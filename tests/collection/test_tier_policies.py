"""Policies that ship with the package as behaviours of a collection."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offline_marl.algorithms.base import algorithms
from offline_marl.collection.collect import collect
from offline_marl.collection.config import CollectConfig
from offline_marl.core.config import build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import DataError
from offline_marl.datasets.files import load_data
from offline_marl.environments.base import environments
from offline_marl.runs import policies


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Two teams of the coordination game that never agree on anything."""
    monkeypatch.setattr(policies, "SHIPPED", tmp_path / "shipped")
    spec = environments.get("coordination").make(None, 1).spec
    kind = algorithms.get("vdn")
    for seed, name in enumerate(("expert", "deviator")):
        with seeded_globally(seed, name):
            learner = kind(build(kind.Config, {"hidden": [8]}), spec)
        with torch.no_grad():
            learner.critic.head.bias.add_(10 * torch.eye(3)[seed])
        policies.save_policy(
            tmp_path / "shipped" / "coordination" / f"{name}.safetensors", learner, "vdn", {"return": 6.0 - seed}
        )
    return tmp_path


def settings(folder, **more) -> CollectConfig:
    plain = {"environment": "coordination", "episodes": 40, "out": folder / "made.safetensors", "score_episodes": 0}
    return build(CollectConfig, {**plain, **more})


def test_tiers_act_and_the_metadata_say_which(shipped):
    collect(settings(shipped, who=("tier:expert=3", "random=1")))
    data = load_data(shipped / "made.safetensors")
    about = data.metadata
    assert [actor["name"] for actor in about["actors"]] == ["tier:expert", "random"]
    assert about["actors"][0]["return"] == 6.0 and len(about["actors"][0]["weights_sha256"]) == 64
    assert str(shipped) not in str(about) and "torch" in about["versions"]
    by_tier = np.repeat(np.array(about["who"]) == 0, 6)
    assert bool((data.actions.numpy()[by_tier] == 0).all())


def test_in_unilateral_data_exactly_one_agent_deviates_and_each_does(shipped):
    collect(settings(shipped, who=("tier:expert",), deviate="tier:deviator", deviate_share=0.5))
    data = load_data(shipped / "made.safetensors")
    deviators = np.array(data.metadata["deviators"])
    assert (deviators >= 0).sum() == 20 and set(deviators[deviators >= 0]) == {0, 1, 2}
    others = data.actions.numpy().reshape(40, 6, 3) == 1
    expected = deviators[:, None] == np.arange(3)
    assert (others == expected[:, None]).all()


@pytest.mark.parametrize(
    ("who", "sentence"), [("tier:best", "called 'best'"), ("tier:", "called ''")], ids=["unknown", "empty"]
)
def test_an_unknown_tier_is_one_sentence(shipped, who, sentence):
    with pytest.raises(DataError, match=sentence):
        collect(settings(shipped, who=(who,)))


def test_a_tier_of_another_team_is_refused(shipped):
    (shipped / "shipped" / "coordination").rename(shipped / "shipped" / "rendezvous")
    with pytest.raises(DataError, match="another size"):
        collect(settings(shipped, environment="rendezvous", who=("tier:expert",)))
