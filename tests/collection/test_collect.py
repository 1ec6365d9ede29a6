from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import small_run
from worlds import reacher_recording, saved

import offline_marl
from offline_marl.collection import collect as collecting
from offline_marl.collection import recorder
from offline_marl.collection.collect import collect
from offline_marl.collection.config import CollectConfig
from offline_marl.core.config import ConfigError, build
from offline_marl.core.registry import RegistryError
from offline_marl.core.types import DataError
from offline_marl.datasets import files
from offline_marl.datasets.episode_index import episode_sums, starts
from offline_marl.datasets.files import load_data, save_data
from offline_marl.environments.base import environments
from offline_marl.environments.guarded import EnvironmentFailedError
from offline_marl.tasks.data_tasks import open_task


def collected(out, environment="rendezvous", **fields):
    return collect(build(CollectConfig, {"environment": environment, "out": out, **fields}))


@pytest.fixture
def trained(tmp_path):
    return str(small_run(tmp_path / "clone", "rendezvous-left-v0", steps=3).folder)


def test_the_file_says_who_acted_in_which_episode(tmp_path):
    data = load_data(collected(tmp_path / "a.safetensors", episodes=9, who=("left=2", "random"), seed=4))
    about = data.metadata
    assert [(actor["name"], actor["episodes"]) for actor in about["actors"]] == [("left", 6), ("random", 3)]
    assert sorted(about["who"]) == [0] * 6 + [1] * 3 and about["who"][:6] != [0] * 6
    assert (about["scenario"], about["seed"], set(about["versions"])) == ("rendezvous", 4, {"offline-marl"})
    # The expert without noise walks to its post; chance does not.
    assert (data.returns()[torch.tensor(about["who"]) == 0] > 4).all()
    assert (data.returns()[torch.tensor(about["who"]) == 1] < 4).all()
    assert open_task(str(tmp_path / "a.safetensors")).make_env(2).spec == data.spec


def test_noise_is_each_episodes_own_and_chance_has_none(tmp_path):
    data = load_data(collected(tmp_path / "a.safetensors", episodes=40, who=("left", "random"), noise=(0.0, 0.4)))
    levels, who = torch.tensor(data.metadata["noise_levels"]), torch.tensor(data.metadata["who"])
    assert sorted(set(data.metadata["noise_levels"])) == [0.0, 0.4] and not levels[who == 1].any()
    quiet = collected(tmp_path / "b.safetensors", episodes=40, who=("left", "random"))
    same = episode_sums((load_data(quiet).actions == data.actions).all(-1).all(-1), data.lengths) == data.lengths
    assert torch.equal(same, levels == 0)


@pytest.mark.long
def test_the_number_of_copies_changes_nothing(tmp_path, trained):
    fields = {"episodes": 70, "who": ("left", f"{trained}=2", "random"), "noise": (0.1, 0.3)}
    one = collected(tmp_path / "one" / "a.safetensors", copies=13, **fields)
    for copies in (1, 7, 64):
        other = collected(tmp_path / str(copies) / "a.safetensors", copies=copies, **fields)
        assert one.read_bytes() == other.read_bytes(), copies
    about = load_data(one).metadata["actors"][1]
    assert (about["kind"], about["algorithm"], about["dataset"]) == ("run", "bc", "rendezvous-left-v0")
    assert len(about["weights_sha256"]) == 64 and str(tmp_path) not in str(about)


def test_an_environment_that_fails_is_named_and_whole_chunks_are_kept(tmp_path, monkeypatch):
    LiveWorld = pytest.importorskip("live_worlds").LiveWorld
    monkeypatch.setattr(recorder, "CHUNK", 4)
    monkeypatch.setattr(LiveWorld, "steps", 0)
    fields = {"environment": "live_worlds:make", "who": ("random",), "episodes": 12, "score_episodes": 0}
    fields["settings"] = {"trouble": "raises", "after": 30}
    with pytest.raises(EnvironmentFailedError, match=r"live_worlds:make failed in a step: OSError: .* licence; chunks"):
        collected(tmp_path / "a.safetensors", **fields)
    assert len(list((tmp_path / "a.safetensors.parts").glob("*.safetensors"))) == 1
    monkeypatch.setattr(LiveWorld, "steps", -10_000)  # trouble is over
    assert len(load_data(collected(tmp_path / "a.safetensors", **fields)).lengths) == 12


@pytest.mark.parametrize("killed_at", [0, 1, 2, 3])
def test_killed_and_resumed_equals_undisturbed(tmp_path, monkeypatch, killed_at):
    monkeypatch.setattr(recorder, "CHUNK", 8)
    fields = {"episodes": 20, "noise": (0.2,)}
    whole = collected(tmp_path / "whole" / "a.safetensors", **fields)
    saves = []

    def dying(path, data):
        if len(saves) == killed_at:
            raise KeyboardInterrupt
        saves.append(path)
        return files.save_data(path, data)

    for place in (collecting, recorder):
        monkeypatch.setattr(place, "save_data", dying)
    out = tmp_path / "again" / "a.safetensors"
    with pytest.raises(KeyboardInterrupt):
        collected(out, **fields)
    assert not out.exists() and len(list(out.parent.glob("*.parts/*.safetensors"))) == killed_at
    with pytest.raises(DataError, match=r"holds chunks of another collection \(other seed\): delete it"):
        collected(out, seed=1, **fields)
    for place in (collecting, recorder):
        monkeypatch.setattr(place, "save_data", files.save_data)
    for part in list(out.parent.glob("*.parts/*.safetensors"))[:1]:
        part.write_bytes(part.read_bytes()[:-9])  # a damaged chunk is recorded again
    assert collected(out, copies=3, **fields).read_bytes() == whole.read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["a.safetensors"]


def test_what_cannot_be_collected_is_refused_in_a_sentence(tmp_path, trained):
    out = tmp_path / "a.safetensors"
    with pytest.raises(ConfigError, match=r"should end in \.safetensors"):
        collected(tmp_path / "a.h5")
    with pytest.raises(ConfigError, match="The share 'x' of left is no number"):
        collected(out, who=("left=x",))
    with pytest.raises(ConfigError, match="above 0"):
        collected(out, who=("left=-1",))
    with pytest.raises(ConfigError, match="left is named twice"):
        collected(out, who=("left", "left=2"))
    with pytest.raises(RegistryError, match="no scripted expert 'lef': did you mean 'left'"):
        collected(out, who=("lef",))
    with pytest.raises(RegistryError, match="Unknown environment 'rendezvus'"):
        collected(out, "rendezvus")
    with pytest.raises(DataError, match="team of another size than coordination's"):
        collected(out, "coordination", who=(trained,))
    with pytest.raises(DataError, match="Rendezvous is what it is: it takes no settings and no length"):
        collected(out, max_steps=3)
    with pytest.raises(ConfigError, match="--noise 7 is the chance of any choice in coordination: from 0 to 1"):
        collected(out, "coordination", noise=(0.5, 7.0))
    assert not out.exists() and not list(tmp_path.glob("*.parts"))
    collected(out, episodes=2)
    with pytest.raises(DataError, match="exists already"):
        collected(out, episodes=2)


def test_an_environment_by_its_import_path(tmp_path):
    pytest.importorskip("mpe2")
    path = collected(
        tmp_path / "a.safetensors",
        "mpe2.simple_spread_v3",
        episodes=3,
        copies=2,
        settings={"max_cycles": 4},
        score_episodes=5,
    )
    data = load_data(path)
    assert data.lengths.tolist() == [4, 4, 4] and data.spec.n_agents == 3
    assert "mpe2" in data.metadata["versions"] and data.metadata["actors"][0]["name"] == "random"


def test_mpe_by_its_name_can_be_trained_on_and_scored(tmp_path):
    pytest.importorskip("mpe2")
    few = {"episodes": 3, "score_episodes": 5}
    path = collected(tmp_path / "a.safetensors", "simple-speaker-listener-continuous", **few)
    run = small_run(tmp_path / "run", str(path), steps=2)
    assert run.score is not None
    again = collected(tmp_path / "b.safetensors", "simple-speaker-listener-continuous", who=(str(run.folder),), **few)
    assert load_data(again).spec == load_data(path).spec


def test_settings_of_an_environment_by_its_name_are_those_it_is_scored_with(tmp_path):
    pytest.importorskip("mpe2")
    fields = {"episodes": 2, "settings": {"N": 2}, "max_steps": 4, "score_episodes": 3}
    path = collected(tmp_path / "a.safetensors", "simple-spread", **fields)
    data = load_data(path)
    assert data.lengths.tolist() == [4, 4] and data.metadata["max_steps"] == 4
    env = open_task(str(path)).make_env(2)
    assert env.spec == data.spec and (env.spec.n_agents, env.max_steps) == (2, 4)
    for odd in ({"settings": [3]}, {"max_steps": "x"}, {"settings": {"nonsense": 1}}, {"max_steps": -1}):
        save_data(path, replace(data, metadata={**data.metadata, **odd}))
        with pytest.raises(DataError):
            open_task(str(path)).make_env(2)


@pytest.mark.long
def test_another_run_that_acts_as_the_prey_is_noticed(tmp_path):
    """Its weights decide what is recorded, so that chunks of one and of another do not belong together."""
    pytest.importorskip("mpe2")
    preys = [
        offline_marl.train(
            "ma-ppo", environment="simple-tag", steps=1, batch_size=25, seed=seed, out=tmp_path / f"tag{seed}"
        ).folder
        for seed in (0, 1)
    ]
    acting = tmp_path / "prey"
    shutil.copytree(preys[0], acting)
    fields = {"episodes": 3, "settings": {"prey": str(acting)}, "score_episodes": 2}
    told = load_data(collected(tmp_path / "a.safetensors", "simple-tag-prey", **fields)).metadata["opponents"]
    assert list(told) == [f"prey of the run {acting}"]
    parts = tmp_path / "b.safetensors.parts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting, "join", lambda *_: 1 / 0)  # stopped when all chunks are there
        with pytest.raises(ZeroDivisionError):
            collected(tmp_path / "b.safetensors", "simple-tag-prey", **fields)
    assert parts.exists()
    shutil.rmtree(acting)
    shutil.copytree(preys[1], acting)
    with pytest.raises(DataError, match="another collection"):
        collected(tmp_path / "b.safetensors", "simple-tag-prey", **fields)


@pytest.mark.mujoco
def test_a_body_is_recorded_whole_whoever_moves_it(tmp_path):
    pytest.importorskip("mujoco")
    task = f"{saved(tmp_path, reacher_recording())}_2x1notip_0"
    run = small_run(tmp_path / "arm", task, steps=2, final_episodes=2)
    who = ("clockwise", str(run.folder), "random")
    files = [collected(tmp_path / f"{n}" / "a.safetensors", "reacher", episodes=6, who=who, copies=n) for n in (2, 5)]
    assert files[0].read_bytes() == files[1].read_bytes()
    recording = load_data(files[0])
    assert recording.metadata["reference"]["expert"] == pytest.approx(-4.2370844)
    assert open_task(f"{files[0]}_2x1first_0").data.spec.obs_dims == (8, 6)
    # What the run did is what its networks say of what its agents saw.
    episode = recording.metadata["who"].index(1)
    first = int(starts(recording.lengths)[episode])
    obs = recording.split(open_task(task).partition).obs[first + episode].unsqueeze(0)
    assert torch.allclose(recording.actions[first], run.algorithm.act(obs)[0, :, 0], atol=1e-6)
    # Two bodies may have teams of equal widths: what the run recorded of its task says which one it moves.
    with pytest.raises(DataError, match="arm moves reacher, which is another body than walker2d"):
        collected(tmp_path / "b.safetensors", "walker2d", episodes=1, who=(str(run.folder),))
    run.folder.joinpath("task.json").unlink()  # of an earlier version: its task's name says how
    again = collected(tmp_path / "c.safetensors", "reacher", episodes=6, who=who, copies=2)
    assert torch.equal(load_data(again).actions, recording.actions)
    shutil.move(str(run.folder), nameless := tmp_path / "nameless")
    (config := nameless / "config.json").write_text(config.read_text().replace("_2x1notip_0", ""))
    with pytest.raises(DataError, match="nameless does not say how its agents share reacher"):
        collected(tmp_path / "d.safetensors", "reacher", episodes=1, who=(str(nameless),))


def test_a_body_that_fails_is_named_and_loses_nothing(tmp_path, monkeypatch):
    class Loose:
        copies, max_steps, state_dim, action_dim = 2, 3, 10, 2

        def reset(self, seeds):
            raise ValueError("high - low < 0")

        def close(self):
            pass

    monkeypatch.setattr(environments.get("reacher"), "simulator", classmethod(lambda kind, copies: Loose()))
    with pytest.raises(
        EnvironmentFailedError, match="reacher failed in a reset: ValueError: high - low < 0; chunks that"
    ):
        collected(tmp_path / "a.safetensors", "reacher", who=("random",), episodes=2)
    monkeypatch.setattr(environments.get("reacher"), "simulator", classmethod(lambda kind, copies: 1 / 0))
    with pytest.raises(EnvironmentFailedError, match="reacher failed when it was made: ZeroDivisionError"):
        collected(tmp_path / "b.safetensors", "reacher", who=("random",), episodes=2)


@pytest.mark.parametrize("fields", [{}, {"noise": (0.2,)}, {"who": ("left", "random")}, {"deviate": "left"}])
def test_an_expert_that_returns_doubles_records_what_one_of_floats_does(tmp_path, monkeypatch, fields):
    fields = {"episodes": 4, "who": ("left",), **fields}
    single = load_data(collected(tmp_path / "a.safetensors", **fields))
    scripted = environments.get("rendezvous").scripted

    class Doubles:
        name = "left"

        def act(self, seen):
            return scripted("left").act(seen).astype(np.float64)

    monkeypatch.setattr(environments.get("rendezvous"), "scripted", classmethod(lambda kind, name: Doubles()))
    double = load_data(collected(tmp_path / "b.safetensors", **fields))
    assert double.actions.dtype == torch.float32 and double.lengths.tolist() == single.lengths.tolist()
    assert torch.allclose(double.actions, single.actions, atol=1e-6)
