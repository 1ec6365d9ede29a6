from __future__ import annotations

import pytest
import torch
from games import SPEC, small

from offline_marl.core.files import DamagedFileError, load_tree, save_tree
from offline_marl.core.types import DataError
from offline_marl.runs import policies
from offline_marl.runs.policies import load_policy, save_policy, shipped_names, shipped_policy


@pytest.mark.parametrize("name", ["vdn", "qmix"])
def test_a_policy_comes_back_with_its_memory_and_half_its_digits(name, tmp_path):
    learner = small(name, conservative="bcq", epsilon_end=0.3)
    save_policy(tmp_path / "made" / "one.safetensors", learner, name, {"return": -3.5})
    saved = load_policy(tmp_path / "made" / "one.safetensors")
    assert saved.algorithm == name and saved.about == {"return": -3.5} and saved.policy.config == learner.config
    own = dict(learner.critic.named_parameters())
    for key, parameter in saved.policy.critic.named_parameters():
        assert torch.equal(parameter, own[key].half().float()) and not parameter.requires_grad
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.copy_(parameter.half())
    memories = [each.begin(4) for each in (learner, saved.policy)]
    for _ in range(3):
        obs = torch.randn(4, 3, 4) * SPEC.present("obs")
        actions = [each.act(obs, **kept.read()) for each, kept in zip((learner, saved.policy), memories, strict=True)]
        assert torch.equal(*actions)
        for kept in memories:
            kept.remember(obs, actions[0], torch.zeros(4, 3))


def test_a_file_of_policies_is_small_and_holds_nothing_that_training_alone_needs(tmp_path):
    learner = small("qmix", hidden=[64, 64])
    save_policy(tmp_path / "one.safetensors", learner, "qmix", {})
    assert (tmp_path / "one.safetensors").stat().st_size < 70_000
    tree, _ = load_tree(tmp_path / "one.safetensors", "policy")
    assert not any("mixer" in key or "target" in key for key in tree["weights"])


def test_weights_of_another_shape_or_file_are_refused(tmp_path):
    path = tmp_path / "one.safetensors"
    save_policy(path, small(), "vdn", {})
    tree, _ = load_tree(path, "policy")
    del tree["weights"]["critic.head.bias"]
    save_tree(path, tree, "policy")
    with pytest.raises(DataError, match="not those of vdn"):
        load_policy(path)
    save_tree(path, tree, "else")
    with pytest.raises(DamagedFileError):
        load_policy(path)


def test_a_tier_that_does_not_ship_is_answered_with_those_that_do(tmp_path, monkeypatch):
    monkeypatch.setattr(policies, "SHIPPED", tmp_path)
    for name in ("expert", "poor"):
        save_policy(tmp_path / "somewhere" / f"{name}.safetensors", small(), "vdn", {})
    assert shipped_names("somewhere") == ["expert", "poor"] and shipped_names("nowhere") == []
    assert shipped_policy("tier:poor", "somewhere").algorithm == "vdn"
    with pytest.raises(DataError, match="called 'experts': did you mean 'expert'"):
        shipped_policy("tier:experts", "somewhere")
    with pytest.raises(DataError, match="No policies of tiers ship for nowhere; they do for: somewhere"):
        shipped_policy("tier:expert", "nowhere")


SHIPPED = [(folder.name, name) for folder in sorted(policies.SHIPPED.iterdir()) for name in shipped_names(folder.name)]


@pytest.mark.parametrize(("environment", "name"), SHIPPED)
def test_what_ships_is_small_loads_and_says_how_good_it_is(environment, name):
    path = policies.SHIPPED / environment / f"{name}.safetensors"
    saved = shipped_policy(f"tier:{name}", environment)
    assert path.stat().st_size <= 100_000
    assert saved.about["tier"] == name and saved.about["environment"] == environment
    assert saved.about["low"] <= saved.about["return"] <= saved.about["high"]
    assert name != "expert" or saved.about["fraction"] == 1.0
    assert sorted(shipped_names(environment)) == ["deviator", "expert", "good", "medium", "poor", "trivial"]


@pytest.mark.parametrize("environment", sorted({environment for environment, _ in SHIPPED}))
def test_tiers_are_in_order(environment):
    scored = [
        shipped_policy(name, environment).about["return"] for name in ("expert", "good", "medium", "poor", "trivial")
    ]
    assert scored == sorted(scored, reverse=True)
