from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest

from offline_marl.core.partition import Partition, partition
from offline_marl.core.types import DataError
from offline_marl.environments.base import MissingSimulatorError, Outcome
from offline_marl.environments.split import GymnasiumSimulator, SplitEnv, make_env


class Counter:
    """A simulator whose state tells its seed and its columns; it remembers the last joint actions."""

    copies = 4
    max_steps = 3

    def __init__(self, state_dim: int, action_dim: int) -> None:
        self.state_dim, self.action_dim = state_dim, action_dim
        self.last = np.zeros((0, action_dim), np.float32)

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        return (100 * np.array(seeds)[:, None] + 1 + np.arange(self.state_dim)).astype(np.float32)

    def step(self, actions: np.ndarray) -> Outcome:
        self.last = actions
        running = len(actions)
        rewards = np.arange(running, dtype=np.float32)
        return Outcome(self.reset(range(running)), rewards, np.zeros(running, np.bool_), np.ones(running, np.bool_))

    def versions(self) -> dict[str, str]:
        return {"env_id": "counter"}

    def close(self) -> None:
        pass


# Agents of unequal width on both sides, with action columns out of order.
UNEVEN = Partition("toy", "2", "0", ("agent_0", "agent_1"), ((1, 4), (0, 2, 3)), ((2,), (0, 1)))


def test_each_agent_sees_its_columns_and_zeros_after_them():
    env = SplitEnv(Counter(5, 3), UNEVEN)
    seen = env.reset([0, 7])
    assert seen.obs.tolist() == [[[2, 5, 0], [1, 3, 4]], [[702, 705, 0], [701, 703, 704]]]
    assert seen.obs.dtype == np.float32 and seen.state is not None and seen.avail_actions is None
    assert seen.state.tolist() == [[1, 2, 3, 4, 5], [701, 702, 703, 704, 705]]
    assert (env.spec.obs_dims, env.spec.act_dims, env.spec.state_dim) == ((2, 3), (1, 2), 5)


def test_padding_is_zero_even_where_column_0_is_not_a_number():
    simulator = Counter(5, 3)
    state = simulator.reset([0])
    state[:, 0] = np.nan
    simulator.reset = lambda seeds: state  # type: ignore[method-assign]
    assert SplitEnv(simulator, UNEVEN).reset([0]).obs[0, 0].tolist() == [2, 5, 0]


def test_padded_actions_are_joined_in_the_order_of_the_joints_and_rewards_are_shared():
    env = SplitEnv(Counter(5, 3), UNEVEN)
    env.reset([0, 1])
    actions = np.array([[[0.3, 9], [0.1, 0.2]], [[0.6, np.nan], [0.4, 0.5]]], np.float32)
    seen, rewards, terminations, truncations = env.step(actions)
    assert np.allclose(env.simulator.last, [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])  # type: ignore[attr-defined]
    assert rewards.tolist() == [[0, 0], [1, 1]]
    assert terminations.shape == truncations.shape == (2,)
    assert seen.obs.shape == (2, 2, 3)


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 1), (2, 1, 2)])
def test_actions_of_another_shape_are_refused(shape):
    env = SplitEnv(Counter(5, 3), UNEVEN)
    env.reset([0, 1])
    with pytest.raises(DataError, match="should end in"):
        env.step(np.zeros(shape, np.float32))


@pytest.mark.parametrize(("state_dim", "action_dim"), [(4, 3), (5, 2), (5, 4)])
def test_a_partition_of_another_body_is_refused(state_dim, action_dim):
    with pytest.raises(DataError, match="Partition 2_0 of toy"):
        SplitEnv(Counter(state_dim, action_dim), UNEVEN)


def test_a_missing_gymnasium_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingSimulatorError, match=r"pip install 'offline-marl\[environments\]'"):
        make_env("Reacher-v5")


@pytest.mark.mujoco
class TestGymnasium:
    """What needs a real simulator; the pendulum falls after a few steps, at a time that depends on its seed."""

    @pytest.fixture(autouse=True)
    def _needs_mujoco(self):
        pytest.importorskip("gymnasium")
        pytest.importorskip("mujoco")

    @staticmethod
    def _fall(copies, seeds):
        simulator = GymnasiumSimulator("InvertedPendulum-v5", copies)
        states, rewards, ends = [simulator.reset(seeds)], [], []
        for time in range(40):
            push = np.array([[np.sin(seed + 0.3 * time)] for seed in seeds], np.float32)
            outcome = simulator.step(push)
            states.append(outcome.state)
            rewards.append(outcome.rewards)
            ends.append(outcome.terminations)
        simulator.close()
        return np.array(states), np.array(rewards), np.array(ends)

    def test_a_finished_copy_stays_as_it_is(self):
        states, rewards, ends = self._fall(5, range(5))
        lengths = ends.argmax(axis=0) + 1
        assert ends[-1].all() and len(set(lengths.tolist())) > 1
        for copy, length in enumerate(lengths):
            assert ends[length - 1 :, copy].all() and not ends[: length - 1, copy].any()
            assert (states[length:, copy] == states[length, copy]).all()
            assert (rewards[length:, copy] == 0).all()

    def test_an_episode_depends_on_its_seed_and_not_on_its_neighbours(self):
        together = self._fall(5, [3, 1, 4, 15, 9])
        alone = [self._fall(copies, [seed]) for copies, seed in ((1, 3), (2, 1), (1, 4), (1, 15), (3, 9))]
        for whole, *parts in zip(together, *alone, strict=True):
            assert np.array_equal(whole, np.concatenate(parts, axis=1))

    def test_the_past_of_a_copy_does_not_show_after_a_reset(self):
        simulator = GymnasiumSimulator("InvertedPendulum-v5", 2)
        first = simulator.reset([1, 2])
        for _ in range(7):
            simulator.step(np.ones((2, 1), np.float32))
        assert np.array_equal(simulator.reset([2]), first[1:])
        assert simulator.step(np.zeros((1, 1), np.float32)).state.shape == (1, simulator.state_dim)

    def test_it_steps_as_gymnasium_does_with_actions_stretched_to_their_bounds(self):
        import gymnasium

        env, simulator = gymnasium.make("InvertedPendulum-v5"), GymnasiumSimulator("InvertedPendulum-v5", 1)
        assert np.array_equal(env.reset(seed=5)[0].astype(np.float32), simulator.reset([5])[0])
        for action in (0.5, -1.0, 0.0, -2.0, 7.0):  # the last two lie outside and are clipped
            obs, reward, *_ = env.step(3 * np.clip([action], -1, 1).astype(np.float32))
            outcome = simulator.step(np.array([[action]], np.float32))
            assert np.array_equal(obs.astype(np.float32), outcome.state[0])
            assert outcome.rewards[0] == np.float32(reward)

    def test_returned_arrays_belong_to_the_caller(self):
        simulator = GymnasiumSimulator("Reacher-v5", 1)
        simulator.reset([0])[:] = 7
        outcome = simulator.step(np.zeros((1, 2), np.float32))
        before = outcome.state.copy()
        simulator.step(np.ones((1, 2), np.float32))
        assert np.array_equal(outcome.state, before) and (before != 7).all()

    def test_the_time_limit_truncates_and_does_not_terminate(self):
        simulator = GymnasiumSimulator("Reacher-v5", 2, max_episode_steps=3)
        simulator.reset([0, 1])
        outcomes = [simulator.step(np.zeros((2, 2), np.float32)) for _ in range(simulator.max_steps)]
        assert [o.truncations.tolist() for o in outcomes] == [[False, False], [False, False], [True, True]]
        assert not any(o.terminations.any() for o in outcomes)

    @pytest.mark.parametrize(
        ("seeds", "words"),
        [([], "reset with 0 seeds"), ([0, 1, 2], "reset with 3 seeds"), ([4, 4], "4 is given twice")],
    )
    def test_seeds_must_be_distinct_and_fit_the_copies(self, seeds, words):
        with pytest.raises(DataError, match=words):
            GymnasiumSimulator("Reacher-v5", 2).reset(seeds)

    def test_actions_that_are_not_finite_or_do_not_fit_are_refused(self):
        simulator = GymnasiumSimulator("Reacher-v5", 2)
        simulator.reset([0, 1])
        with pytest.raises(DataError, match="copy 1 of Reacher-v5 are not finite"):
            simulator.step(np.array([[0, 0], [0, np.nan]], np.float32))
        with pytest.raises(DataError, match=r"shape \(2, 2\), got \(1, 2\)"):
            simulator.step(np.zeros((1, 2), np.float32))

    def test_tasks_without_boxes_limit_or_copies_are_refused(self):
        with pytest.raises(DataError, match="only flat boxes"):
            GymnasiumSimulator("CartPole-v1", 1)
        with pytest.raises(DataError, match="needs at least 1 copy"):
            GymnasiumSimulator("Reacher-v5", 0)

    def test_versions_name_what_trajectories_depend_on(self):
        assert sorted(GymnasiumSimulator("Reacher-v5", 1).versions()) == ["env_id", "gymnasium", "mujoco"]

    @pytest.mark.parametrize(("conf", "view"), [("2x1", "0"), ("2x1notip", "0"), ("2x1first", "0"), ("2x1", "full")])
    def test_split_reacher_is_its_state_indexed(self, conf, view):
        who = partition("reacher", conf, view)
        env = SplitEnv(GymnasiumSimulator("Reacher-v5", 3), who)
        env.reset([5, 6, 7])
        for _ in range(4):
            seen, *_ = env.step(np.full((3, 2, 1), 0.5, np.float32))
        assert seen.state is not None
        for agent, columns in enumerate(who.obs_index):
            assert np.array_equal(seen.obs[:, agent, : len(columns)], seen.state[:, list(columns)])
            assert (seen.obs[:, agent, len(columns) :] == 0).all()

    def test_a_missing_mujoco_is_named_with_its_extra(self, warm):
        code = (
            "import sys; sys.modules['mujoco'] = None\n"
            "from offline_marl.environments.base import MissingSimulatorError\n"
            "from offline_marl.environments.split import make_env\n"
            "try: make_env('Reacher-v5')\n"
            "except MissingSimulatorError as error: print(error)\n"
        )
        done = warm.run("-c", code)
        assert done.returncode == 0, done.stderr
        assert "pip install 'offline-marl[environments]'" in done.stdout
        assert done.stdout.count("\n") == 1
