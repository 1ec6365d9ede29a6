"""Data in which one agent deviates while the others keep to their policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from runs import small_run
from worlds import reacher_recording, saved

from offline_marl.collection.collect import collect
from offline_marl.collection.config import CollectConfig
from offline_marl.core.config import ConfigError, build
from offline_marl.core.partition import partition
from offline_marl.datasets.episode_index import episode_sums
from offline_marl.datasets.files import load_data


def collected(out, environment, **fields):
    return collect(build(CollectConfig, {"environment": environment, "out": out, **fields}))


def kept_to(data, other):
    """Agents and episodes whose actions are the same in both."""
    same = data.actions == other.actions
    same = same.all(-1) if same.ndim == 3 else same
    return torch.stack([episode_sums(agent, data.lengths) == data.lengths for agent in same.unbind(1)], 1)


@pytest.mark.parametrize(("environment", "expert"), [("coordination", "red"), ("rendezvous", "left")])
def test_exactly_the_deviator_leaves_the_others_keep_to_their_policy(tmp_path, environment, expert):
    fields = {"episodes": 60, "who": (expert,), "seed": 3}
    plain = load_data(collected(tmp_path / "plain.safetensors", environment, **fields))
    data = load_data(
        collected(tmp_path / "one.safetensors", environment, deviate="random", deviate_share=0.4, **fields)
    )
    deviators = torch.tensor(data.metadata["deviators"])
    assert (deviators >= 0).sum() == 24 and set(deviators.tolist()) == set(range(-1, data.spec.n_agents))
    # What the experts do depends on what they themselves see alone, so that they can be compared.
    expected = torch.arange(data.spec.n_agents) != deviators.unsqueeze(1)
    assert torch.equal(kept_to(data, plain), expected)
    about = data.metadata
    assert about["deviate"] == {"kind": "random", "name": "random", "share": 0.4, "conf": None}
    assert about["who"] == [0] * 60 and [actor["name"] for actor in about["actors"]] == [expert]
    assert "in some of them one agent followed random" in about["how"] and "deviators" not in plain.metadata


def test_who_deviates_is_uniform_and_a_matter_of_the_episode_alone(tmp_path):
    fields = {"who": ("red",), "deviate": "blue", "deviate_share": 1.0}
    many, few = (
        load_data(collected(tmp_path / f"{n}.safetensors", "coordination", episodes=n, **fields)) for n in (900, 10)
    )
    assert many.metadata["deviators"][:10] == few.metadata["deviators"]
    assert np.bincount(many.metadata["deviators"]).tolist() == pytest.approx([300] * 3, abs=50)
    assert torch.equal(
        many.actions.view(900, 6, 3).eq(2).all(1).int().argmax(1), torch.tensor(many.metadata["deviators"])
    )


@pytest.mark.long
@pytest.mark.parametrize("copies", [1, 64])
def test_the_number_of_copies_changes_nothing_noise_is_added_to_a_deviating_expert_too(tmp_path, copies):
    run = str(small_run(tmp_path / "clone", "rendezvous-left-v0", steps=3).folder)
    fields = {"episodes": 70, "who": ("left", run, "random"), "noise": (0.1, 0.3), "deviate": "right"}
    one = collected(tmp_path / "one" / "a.safetensors", "rendezvous", copies=13, **fields)
    other = collected(tmp_path / "other" / "a.safetensors", "rendezvous", copies=copies, **fields)
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.long
@pytest.mark.mujoco
def test_on_a_body_the_agents_are_named_or_those_of_the_run(tmp_path):
    pytest.importorskip("mujoco")
    fields = {"episodes": 8, "seed": 2}
    with pytest.raises(ConfigError, match=r"reacher is one body: say with --conf \(2x1, .*\) who its agents are"):
        collected(tmp_path / "a.safetensors", "reacher", who=("clockwise",), deviate="random", **fields)
    with pytest.raises(ConfigError, match="--conf cannot be 3x1: Unknown reacher conf '3x1'"):
        collected(tmp_path / "a.safetensors", "reacher", who=("clockwise",), deviate="random", conf="3x1", **fields)
    data = load_data(
        collected(tmp_path / "a.safetensors", "reacher", who=("clockwise",), deviate="random", conf="2x1", **fields)
    )
    assert data.metadata["deviate"]["conf"] == "2x1" and data.metadata["reward"] == "team"
    split = data.split(partition("reacher", "2x1", "0"))
    first = split.actions[torch.cumsum(split.lengths, 0) - split.lengths, :, 0]
    plain = load_data(collected(tmp_path / "b.safetensors", "reacher", who=("clockwise",), **fields))
    begun = plain.actions[torch.cumsum(plain.lengths, 0) - plain.lengths]
    deviators = torch.tensor(data.metadata["deviators"])
    assert set(deviators.tolist()) == {-1, 0, 1}
    assert torch.equal(first == begun, torch.arange(2) != deviators.unsqueeze(1))
    run = small_run(tmp_path / "arm", f"{saved(tmp_path, reacher_recording())}_2x1first_0", steps=2, final_episodes=2)
    data = load_data(collected(tmp_path / "c.safetensors", "reacher", deviate=str(run.folder), **fields))
    assert data.metadata["deviate"]["conf"] == "2x1first" and data.metadata["deviate"]["algorithm"] == "bc"


def test_settings_that_do_not_go_together_are_refused(tmp_path):
    out = tmp_path / "a.safetensors"
    with pytest.raises(ConfigError, match="--conf 2x1 shares out a body, but coordination is made for a team"):
        collected(out, "coordination", deviate="random", conf="2x1")
    for field, value in (("conf", "2x1"), ("deviate_share", 0.1)):
        with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')} needs --deviate NAME"):
            collected(out, "coordination", **{field: value})


def test_who_deviates_from_chance_takes_the_noise_and_chance_itself_does_not(tmp_path):
    fields = {"episodes": 40, "who": ("random",), "deviate": "left", "deviate_share": 0.5, "seed": 2}
    quiet = load_data(collected(tmp_path / "quiet.safetensors", "rendezvous", **fields))
    noisy = load_data(collected(tmp_path / "noisy.safetensors", "rendezvous", noise=(0.3,), **fields))
    deviators = torch.tensor(noisy.metadata["deviators"])
    assert [level > 0 for level in noisy.metadata["noise_levels"]] == (deviators >= 0).tolist()
    expected = torch.arange(noisy.spec.n_agents) != deviators.unsqueeze(1)
    assert torch.equal(kept_to(noisy, quiet), expected)
