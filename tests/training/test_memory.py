"""A recurrent policy that owns its memory, where policies act: evaluation, sources, films and collection."""

from __future__ import annotations

import pytest
import torch
from runs import ending, refuse_difference, small_run
from torch import nn

from offline_marl.algorithms.base import algorithms
from offline_marl.algorithms.ma_ppo import MAPPO
from offline_marl.collection.collect import collect
from offline_marl.collection.config import CollectConfig
from offline_marl.core.acting.history import pairs
from offline_marl.core.config import build
from offline_marl.core.types import DataError
from offline_marl.datasets.files import load_data
from offline_marl.environments.episodes import episode_seeds
from offline_marl.films.frames import episode_frames, open_for_rendering
from offline_marl.films.videos import film
from offline_marl.runs.loading import ActingPrey
from offline_marl.tasks import environment_tasks
from offline_marl.training import session, training_run
from offline_marl.training.run import evaluate, load, resume

SPREAD = {"environment": "simple-spread", "env_settings": {"N": 2}, "max_steps": 6}
FIELDS = {**SPREAD, "steps": 4, "batch_size": 24, "checkpoint_every": 2, "eval_every": 2, "log_every": 1}


class Hidden:
    """The state of a GRU of each agent in each episode, which takes in what the agent saw, did and earned."""

    def __init__(self, policy, copies):
        self.policy = policy
        self.state = torch.zeros(copies, policy.spec.n_agents, 4)

    def read(self):
        return {"hidden": self.state}

    def remember(self, obs, actions, rewards):
        step = torch.cat([pairs(obs, actions, self.policy.spec), rewards.unsqueeze(-1)], -1)
        self.state = self.policy.cell(step.flatten(0, 1), self.state.flatten(0, 1)).unflatten(0, step.shape[:2])


class RecurrentToy(MAPPO):
    """PPO whose policy also sees its hidden state: as a shift of its observation."""

    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.cell = nn.GRUCell(spec.step_dim + 1, 4)
        self.shift = nn.Linear(4, spec.obs_dim)
        nn.init.normal_(self.shift.weight, std=5.0)

    def begin(self, copies, history=None):
        return Hidden(self, copies)

    @torch.no_grad()
    def act(self, obs, *, hidden=None, history=None, avail_actions=None, explore=False):
        seen = obs if hidden is None else obs + self.shift(hidden)
        return super().act(seen, avail_actions=avail_actions, explore=explore)


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    pytest.importorskip("mpe2")
    monkeypatch.setitem(algorithms._loaded, "recurrent-toy", RecurrentToy)
    monkeypatch.setattr(training_run, "draw_run", lambda *_, **__: None)
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 50)


@pytest.fixture
def run(tmp_path, _toy):
    small_run(tmp_path / "run", None, "recurrent-toy", **FIELDS)
    return tmp_path / "run"


def replayed(policy, obs, rewards, forget=False):
    """Actions of an episode on its own observations and rewards; with `forget` from a new memory at each step."""
    memory, chosen = policy.begin(1), []
    for seen, earned in zip(obs, rewards, strict=True):
        chosen.append(policy.act(seen[None], **memory.read())[0])
        memory.remember(seen[None], chosen[-1][None], earned[None])
        memory = policy.begin(1) if forget else memory
    return torch.stack(chosen)


def test_collected_actions_are_those_of_a_memory_that_sees_the_whole_episode(run, tmp_path):
    fields = {"environment": "simple-spread", "settings": {"N": 2}, "max_steps": 6, "score_episodes": 0}
    out = collect(
        build(CollectConfig, {**fields, "episodes": 8, "who": (str(run),), "out": tmp_path / "a.safetensors"})
    )
    data, policy, forgetful = load_data(out), load(run), []
    for number in range(8):
        episode = data.episode(number)
        assert torch.equal(replayed(policy, episode.obs[:-1], episode.rewards), episode.actions)
        forgetful.append(torch.equal(replayed(policy, episode.obs[:-1], episode.rewards, True), episode.actions))
    assert not all(forgetful), "what is not remembered should change some action"


def test_films_and_evaluations_are_of_the_same_episodes(run, tmp_path):
    score = evaluate(run, episodes=3, seed=5)
    policy, env = open_for_rendering(run)
    pictures = list(episode_frames(policy, env, episode_seeds(5, 3)))
    env.close()
    earned = [frame.earned for frame in pictures if frame.last]
    assert len(pictures) == 3 * 7 and earned == pytest.approx(score.returns.tolist())
    assert film(run, tmp_path / "film.gif", episodes=1, seed=5).returns == pytest.approx(score.returns[:1].tolist())


def test_a_stopped_run_ends_bit_for_bit_as_one_that_was_not(run, tmp_path, monkeypatch):
    save, other = session.checkpoint.save, tmp_path / "stopped"

    class Killed(BaseException):
        pass

    def dying(folder, step, *rest):
        save(folder, step, *rest)
        if step == 2:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(session.checkpoint, "save", dying)
        small_run(other, None, "recurrent-toy", **FIELDS)
    resume(other)
    refuse_difference(ending(run), ending(other))


def test_a_policy_with_a_memory_is_no_prey(run):
    with pytest.raises(DataError, match="reads its past"):
        ActingPrey(run)
