"""Memories of the past: the same in training, acting and imagination, and of use where the present does not tell."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from observed import Observed
from torch import Tensor
from worlds import SPECS, world

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.core.acting.history import pairs
from offline_marl.core.config import ConfigError, build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Episode, Spec
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.normalize import obs_statistics
from offline_marl.environments.base import Seen
from offline_marl.environments.episodes import play
from offline_marl.training.sources.recorded import DatasetSource
from offline_marl.worldmodels.base import Prediction, WorldModelConfig
from offline_marl.worldmodels.rollout import Caution, blanked, rollout

MEMORIES = {
    "attention": {"window": 3},
    "gru": {"window": 3, "history_encoder": "gru"},
    "frame_stack": {"frame_stack": 4},
    "gru and frame_stack": {"window": 3, "history_encoder": "gru", "frame_stack": 6},
}


def learner_of(name: str, data: Dataset, **settings: object) -> Algorithm:
    kind = algorithms.get(name)
    with seeded_globally(0, "initialisation"):
        learner = kind(build(kind.Config, {"hidden": [16], **settings}), data.spec)
    learner.place("cpu", 0)
    learner.standardize(*obs_statistics(data))
    return learner


def coming_and_going(data: Dataset) -> Dataset:
    """The first agent comes at the second step, the second one leaves after it; the third is always there."""
    episodes = []
    for number in range(len(data.lengths)):
        episode = data.episode(number)
        mask = torch.ones_like(episode.terminations)
        mask[0, 0] = mask[2:, 1] = False
        rows = torch.cat([mask, mask[-1:]])
        done = ("actions", "rewards", "terminations", "truncations")
        gone = {name: blanked(getattr(episode, name), mask) for name in done}
        gone["truncations"][1, 1] |= len(mask) > 2
        episodes.append(replace(episode, mask=mask, obs=blanked(episode.obs, rows), avail_actions=None, **gone))
    return Dataset.from_episodes(episodes, data.spec)


@pytest.mark.parametrize("leaving", [False, True])
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("kind", sorted(SPECS))
def test_acting_reads_what_training_read_at_every_step_of_an_episode(kind: str, memory: str, leaving: bool) -> None:
    data = coming_and_going(world(kind)) if leaving else world(kind)
    learner = learner_of("bc", data, **MEMORIES[memory])
    buffer, first = TransitionBuffer(data, learner.window), 0
    for number, length in enumerate(data.lengths[:4].tolist()):
        episode, mind = data.episode(number), learner.begin(1)
        for step in range(length):
            batch = buffer.transitions(torch.tensor([first + step]))
            acting = learner.inputs(episode.obs[step : step + 1], **mind.read())
            assert torch.equal(acting, learner.inputs(batch.obs, batch.history))
            if step == 0:
                assert bool(acting[..., : acting.shape[-1] - data.spec.obs_dim].eq(0).all()) or memory == "attention"
            mind.remember(*(getattr(episode, name)[step : step + 1] for name in ("obs", "actions", "rewards")))
        first += length


class Halving(Observed):
    """What agents see halves; the model itself reads more of the past than any learner here."""

    window = 6

    def __init__(self, data: Dataset) -> None:
        self.spec = data.spec

    def predict(self, obs: Tensor, actions: Tensor, history: Tensor | None = None) -> Prediction:
        ended = torch.zeros(obs.shape[:2], dtype=torch.bool)
        return Prediction(obs / 2, torch.zeros(obs.shape[:2]), ended, None)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("kind", sorted(SPECS))
def test_imagination_goes_on_with_the_past_that_was_recorded(kind: str, memory: str) -> None:
    data = world(kind)
    learner = learner_of("moma-ppo", data, **MEMORIES[memory])
    buffer = TransitionBuffer(data, 6)
    begun = torch.tensor([0, 1, 2, 3])  # the first four steps of the first episode
    starts = buffer.transitions(begun)
    acted: list[Tensor] = []
    hook = learner.inputs.register_forward_hook(lambda module, given, features: acted.append(features))
    made = rollout(
        Halving(data), learner, starts, 4, Caution(weight=0, reward_weight=0, cutoff=float("inf"), clip=False)
    )
    hook.remove()
    batch = made.batch
    trained = learner.inputs(batch.obs, batch.history)
    torch.testing.assert_close(
        torch.stack(acted, 1), trained
    )  # batches of another size: some processors round otherwise
    torch.testing.assert_close(learner.inputs(batch.next_obs, batch.next_history)[:, :-1], trained[:, 1:])
    recorded, nothing = data.episode(0), torch.zeros(learner.window, data.spec.n_agents, data.spec.step_dim)
    for row, step in itertools.product(range(4), range(4)):
        seen = torch.cat([recorded.obs[:row], batch.obs[row, :step]])
        done = torch.cat([recorded.actions[:row], batch.actions[row, :step]])
        past = torch.cat([nothing, pairs(seen, done, data.spec)])[-learner.window :].transpose(0, 1)
        torch.testing.assert_close(trained[row, step], learner.inputs(batch.obs[row, step], past))


@pytest.mark.parametrize("name", ["bc", "iql", "ma-ppo"])
def test_a_gru_without_steps_to_read_is_refused_in_one_sentence(name: str) -> None:
    for config in (algorithms.get(name).Config, WorldModelConfig):
        with pytest.raises(
            ConfigError, match=r"^history_encoder = gru reads the last `window` steps.*give a window, such as 10\.$"
        ):
            build(config, {"history_encoder": "gru"})
        assert build(config, {"history_encoder": "none", "window": 10}).history_encoder == "none"
    with pytest.raises(ConfigError, match="frame_stack"):
        build(algorithms.get(name).Config, {"frame_stack": 0})


# --- learning -------------------------------------------------------------------------------------------------------

STEPS = 4


class Recall:
    """Each of two agents is shown a sign in its first step alone; choosing by it in the last one earns 1, else -1."""

    spec = Spec(obs_dims=(2, 2), act_dims=(2, 2), action_kind="discrete")
    max_steps = STEPS

    def __init__(self, copies: int) -> None:
        self.copies = copies

    def reset(self, seeds: Sequence[int]) -> Seen:
        self.signs = np.stack([np.random.default_rng(seed).integers(2, size=2) for seed in seeds])
        self.clock = 0
        return self.see()

    def see(self) -> Seen:
        shown = 2.0 * self.signs - 1 if self.clock == 0 else 0.0 * self.signs
        return Seen(np.stack([shown, np.full_like(shown, self.clock / STEPS)], -1).astype(np.float32))

    def step(self, actions):
        self.clock += 1
        last = self.clock == STEPS
        rewards = np.where(actions == self.signs, 1.0, -1.0) * last
        over = np.full(len(actions), last)
        return self.see(), rewards.astype(np.float32), over, np.zeros_like(over)

    def close(self) -> None:
        pass


def played_at_random(episodes: int = 1000) -> Dataset:
    env, choose = Recall(episodes), np.random.default_rng(0)
    seen, rows = env.reset(range(episodes)).obs, []
    sights = [seen]
    for _ in range(STEPS):
        actions = choose.integers(2, size=(episodes, 2))
        seen, rewards, over, _ = env.step(actions)
        sights.append(seen.obs)
        rows.append((actions, rewards, np.repeat(over[:, None], 2, 1)))
    obs = torch.from_numpy(np.stack(sights, 1))
    actions, rewards, over = (torch.from_numpy(np.stack(column, 1)) for column in zip(*rows, strict=True))
    ends = over, torch.zeros_like(over)
    made = (Episode(*(part[i] for part in (obs, actions, rewards, *ends))) for i in range(episodes))
    return Dataset.from_episodes(list(made), Recall.spec)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("memory", "solves"),
    [
        ({"history_encoder": "gru", "window": STEPS}, True),
        ({"history_encoder": "attention", "window": STEPS}, True),
        ({"frame_stack": STEPS}, True),
        ({"history_encoder": "none", "window": STEPS}, False),
        ({"history_encoder": "gru", "window": STEPS - 2}, False),
    ],
    ids=str,
)
def test_what_was_shown_at_the_start_is_recalled_at_the_end_by_those_who_remember(memory: dict, solves: bool) -> None:
    data = played_at_random()
    learner = learner_of("iql", data, lr=2e-3, hidden=[32], temperature=10.0, **memory)
    source = DatasetSource(TransitionBuffer(data, learner.window), 128, torch.Generator().manual_seed(0))
    for _ in range(300):
        learner.update(source.sample(learner.needs))
    score = float(play(learner, Recall(500), range(10_000, 10_500)).returns.mean())
    print(f"{memory}: {score:.2f}")
    assert score > 0.95 if solves else abs(score) < 0.2
