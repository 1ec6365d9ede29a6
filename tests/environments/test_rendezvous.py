from __future__ import annotations

import time
from itertools import pairwise
from math import ceil, comb, factorial, floor

import numpy as np
import pytest
import torch

from offline_marl.collection.record import make_scripted, record_team
from offline_marl.core.partition import partition
from offline_marl.core.registry import RegistryError
from offline_marl.core.types import DataError
from offline_marl.datasets.catalog import find
from offline_marl.environments.base import environments
from offline_marl.environments.rendezvous import Rendezvous, RendezvousGame
from offline_marl.tasks.data_tasks import open_task

SPEED, RADIUS, COST, STEPS, START = 0.25, 0.25, 0.05, 10, 0.5


def moves(*rows):
    return np.array(rows, np.float32)[..., None]


def placed(copies, starts):
    """The task with starts of our own: agent 0 at `start`, agent 1 opposite."""
    env = Rendezvous.make(None, copies)
    env.reset(range(len(starts)))
    env._places = np.stack([starts, np.negative(starts)], axis=1).astype(np.float32)
    return env


def least_steps(start):
    return ceil((1 - RADIUS + abs(start)) / SPEED - 1e-9)


def best_return(start):
    """Closed form of the module's docstring, the best over every number of steps to arrive."""
    way = np.array([1 - RADIUS + start, 1 - RADIUS - start])
    arrivals = range(least_steps(start), STEPS + 1)
    return max(STEPS + 1 - k - COST / (2 * SPEED**2 * k) * (way**2).sum() for k in arrivals)


def sum_of_uniforms(count, y):
    """P(U_1 + .. + U_count <= y) for U uniform in [-1, 1]: the Irwin-Hall distribution."""
    z = (y + count) / 2
    if not 0 < z < count:
        return float(z >= count)
    return sum((-1) ** k * comb(count, k) * (z - k) ** count for k in range(floor(z) + 1)) / factorial(count)


def random_return():
    """Exact up to the quadrature over starts: agents move independently given the start."""

    def at_post(steps, start, post):
        lower, upper = ((post + side * RADIUS - start) / SPEED for side in (-1, 1))
        return sum_of_uniforms(steps, upper) - sum_of_uniforms(steps, lower)

    points, weights = np.polynomial.legendre.leggauss(12)
    edges = np.linspace(-START, START, 41)
    met = 0.0
    for low, high in pairwise(edges):
        for start, weight in zip((low + high) / 2 + (high - low) / 2 * points, weights * (high - low) / 2, strict=True):
            for steps in range(1, STEPS + 1):
                met += weight * sum(at_post(steps, start, p) * at_post(steps, -start, p) for p in (-1, 1))
    return met - COST * STEPS / 3  # E a^2 = 1/3


def test_the_registry_knows_it():
    assert environments.get("rendezvous") is Rendezvous


def test_steps_worked_by_hand():
    env = placed(4, [-0.5, 0.25, 0.0, 0.0])
    env._places[:] = [[-0.6, -0.9], [-0.5, 1.0], [0.8, 1.2], [-1.3, -1.0]]
    seen, rewards, terminations, truncations = env.step(moves([-0.8, 0.0], [-1.0, 0.0], [1.0, -5.0], [0, 0.5]))
    # Both left, 0.05 (0.64 + 0) / 2 paid; one at each post; both right, clipped to -1; one beyond its post by 0.05.
    assert rewards[:, 0] == pytest.approx([1 - 0.016, -0.025, 1 - 0.05, -0.00625]) and rewards.shape == (4, 2)
    assert np.array_equal(rewards[:, 0], rewards[:, 1])
    assert np.allclose(seen.obs[..., 0], [[-0.8, -0.9], [-0.75, 1.0], [1.05, 0.95], [-1.3, -0.875]])
    assert np.allclose(seen.obs[..., 1], 0.1) and np.allclose(seen.state[:, :2], seen.obs[..., 0])
    assert np.allclose(seen.state[:, 2], 0.1) and not terminations.any() and not truncations.any()
    assert seen.obs.dtype == seen.state.dtype == rewards.dtype == np.float32


def test_starts_are_mirrored_spread_and_of_their_own_seed():
    env = Rendezvous.make(None, 2000)
    starts = env.reset(range(2000)).obs[..., 0]
    assert np.array_equal(starts[:, 0], -starts[:, 1]) and np.abs(starts).max() <= START
    assert starts[:, 0].mean() == pytest.approx(0, abs=0.03) and starts[:, 0].std() == pytest.approx(12**-0.5, abs=0.01)
    assert np.array_equal(env.reset([7, 3]).obs[..., 0], starts[[7, 3]])


def test_the_last_step_terminates_and_then_all_is_frozen():
    env = Rendezvous.make(None, 2)
    env.reset([1, 2])
    ends = [env.step(moves([0.1, 0.2], [-1, 1])) for _ in range(STEPS)]
    assert [bool(over.all()) for _, _, over, _ in ends] == [False] * 9 + [True]
    assert not any(cut.any() for *_, cut in ends)
    after = env.step(moves([1, 1], [1, 1]))
    assert np.array_equal(after[0].obs, ends[-1][0].obs) and not after[1].any() and after[2].all()


def test_arrays_belong_to_the_caller():
    env = Rendezvous.make(None, 1)
    seen = env.reset([1])
    kept = seen.obs.copy()
    seen.obs[:], seen.state[:] = 9, 9
    assert np.allclose(env.step(moves([0, 0]))[0].obs[..., 0], kept[..., 0])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda env: env.reset([1, 2, 3]), "has 2 copies, but was reset with 3 seeds"),
        (lambda env: env.step(np.zeros((2, 2), np.float32)), r"expects actions of shape \(2, 2, 1\), got \(2, 2\)"),
        (lambda env: env.step(moves([0, np.nan], [0, 0])), "are not finite"),
        (lambda env: Rendezvous.make(partition("hopper", "3x1", "0"), 1), "rendezvous is made for a team"),
        (lambda env: Rendezvous.scripted("up"), "no scripted expert 'up'"),
    ],
)
def test_misuse_is_one_sentence(wrong, said):
    env = Rendezvous.make(None, 2)
    env.reset([1, 2])
    with pytest.raises((DataError, RegistryError), match=said):
        wrong(env)


def test_the_closed_form_averages_to_the_reference():
    # The best arrival is the earliest: 4 steps below a distance of 0.25 from the middle, else 5.
    assert best_return(0.1) == pytest.approx(7 - 0.2 * (0.5625 + 0.01))
    assert best_return(0.3) == pytest.approx(6 - 0.16 * (0.5625 + 0.09))
    points, weights = np.polynomial.legendre.leggauss(5)
    halves = [weights @ [best_return(middle + 0.125 * point) for point in points] / 2 for middle in (0.125, 0.375)]
    assert sum(halves) / 2 == pytest.approx(find("rendezvous-mix-v0").reference.expert, abs=1e-9)


def test_no_plan_on_a_fine_grid_beats_the_closed_form_and_where_the_grid_allows_it_is_reached():
    # Dynamic programming over both positions; the cost is a sum, so agents maximise in turn. Positions reach to
    # +-1.75: walking on could only cost more.
    step = 0.0125
    places = np.arange(-140, 141) * step
    at = np.abs(places[:, None] - [-1, 1]) <= RADIUS + 1e-9
    together = (at[:, None] & at[None, :]).any(-1)
    value = np.zeros_like(together, dtype=float)
    for _ in range(STEPS):
        value = together + value
        for axis in (0, 1):
            best = np.full_like(value, -np.inf)
            padded = np.pad(value, [(20, 20) if a == axis else (0, 0) for a in (0, 1)], constant_values=-np.inf)
            for shift in range(-20, 21):  # 20 grid cells are the way of one step at full action
                there = np.take(padded, np.arange(len(places)) + 20 + shift, axis=axis)
                best = np.maximum(best, there - COST / 2 * (shift / 20) ** 2)
            value = best
    found = {cell: value[140 + cell, 140 - cell] for cell in range(-40, 41)}
    gaps = [best_return(cell * step) - v for cell, v in found.items()]
    assert min(gaps) > -1e-9 and max(gaps) < 2e-3
    for cell in (0, 20, -20, 40, -40):  # even pace lies on the grid
        assert found[cell] == pytest.approx(best_return(cell * step), abs=1e-9)


@pytest.mark.parametrize("side", [-1, 1])
def test_even_pace_to_either_post_earns_the_closed_form_in_the_game(side):
    starts = np.linspace(-START, START, 101)
    arrivals = np.array([least_steps(start) for start in starts])
    ways = side * (1 - RADIUS) - np.stack([starts, -starts], axis=1)
    env = placed(101, starts)
    total = np.zeros(101)
    for step in range(STEPS):
        pace = ways / (SPEED * arrivals[:, None])
        total += env.step(moves(*np.where(step < arrivals[:, None], pace, 0)))[1][:, 0]
    assert np.allclose(total, [best_return(start) for start in starts], atol=1e-5)


def test_the_random_reference_is_the_exact_mean_and_simulation_agrees():
    reference = find("rendezvous-left-v0").reference
    assert reference.random == pytest.approx(random_return(), abs=1e-6)
    env, rng = Rendezvous.make(None, 50_000), np.random.default_rng(0)
    env.reset(range(50_000))
    returns = np.zeros(50_000)
    for _ in range(STEPS):
        returns += env.step(rng.uniform(-1, 1, (50_000, 2, 1)).astype(np.float32))[1][:, 0]
    assert returns.mean() == pytest.approx(reference.random, abs=4 * returns.std() / np.sqrt(50_000))


@pytest.mark.parametrize(("name", "side"), [("left", -1), ("right", 1)])
def test_experts_meet_at_their_post_and_nearly_reach_the_optimum(name, side):
    env, expert = Rendezvous.make(None, 2000), Rendezvous.scripted(name)
    data = record_team(env, expert, range(2000), (0.0,)).check()
    assert torch.allclose(data.obs.view(2000, 11, 2, 2)[:, -1, :, 0], torch.tensor(float(side)))
    # As the note of the reference says.
    assert data.returns().mean().item() == pytest.approx(6.305, abs=0.03)
    assert bool((data.returns() > 5.6).all())


@pytest.mark.parametrize(("name", "sides"), [("rendezvous-left-v0", [-1]), ("rendezvous-mix-v0", [-1, 1])])
def test_each_episode_of_the_data_goes_to_one_post_with_noise(name, sides):
    data = open_task(name).data
    assert len(data.lengths) == 2000 and bool((data.lengths == STEPS).all()) and not data.truncations.any()
    places = data.obs.view(len(sides), -1, STEPS + 1, 2, 2)[..., 0]
    actions = data.actions.view(len(sides), -1, STEPS, 2)
    for where, done, side in zip(places, actions, sides, strict=True):
        assert (where[:, -1].sign() == side).all()
        # Whoever has arrived is steered by at most its last noise; four steps of two agents tell the levels apart.
        noise = done[:, 6:] - ((side - where[:, 6:-1]) / SPEED).clamp(-1, 1)
        spread = noise.square().mean((1, 2)).sqrt()
        loud = spread > (0.1 * 0.3) ** 0.5
        assert loud.double().mean().item() == pytest.approx(0.5, abs=0.06)
        levels = [spread[loud == which].square().mean().sqrt().item() for which in (False, True)]
        assert levels == pytest.approx([0.1, 0.3], rel=0.05)
    assert data.returns().mean() < 6.1, "the data itself is not optimal"


def test_data_does_not_depend_on_copies_and_is_the_same_at_each_making(tmp_path):
    expert, seeds = Rendezvous.scripted("right"), [9, 4, 7, 2, 11]
    alone = record_team(Rendezvous.make(None, 1), expert, seeds, (0.1, 0.3)).check()
    for copies in (2, 5, 40):
        other = record_team(Rendezvous.make(None, copies), expert, seeds, (0.1, 0.3))
        assert all(torch.equal(getattr(other, name), getattr(alone, name)) for name in ("obs", "actions", "rewards"))
    for folder in ("a", "b"):
        make_scripted(find("rendezvous-mix-v0"), tmp_path / folder / "x.safetensors")
    assert (tmp_path / "a" / "x.safetensors").read_bytes() == (tmp_path / "b" / "x.safetensors").read_bytes()


def test_a_thousand_copies_move_nearly_as_fast_as_one():
    def seconds(copies):
        env, actions, best = Rendezvous.make(None, copies), np.ones((copies, 2, 1), np.float32), np.inf
        for _ in range(10):
            env.reset(range(copies))
            begun = time.perf_counter()
            for _ in range(STEPS):
                env.step(actions)
            best = min(best, time.perf_counter() - begun)
        return best / STEPS

    one, many = seconds(1), seconds(1000)
    print(f"rendezvous: {1 / one:,.0f} steps/s with 1 copy, {1000 / many:,.0f} with 1000")
    assert many < 100 * one


def test_an_episode_goes_on_from_recorded_states_as_it_went_on_itself() -> None:
    env, again = RendezvousGame(3), RendezvousGame(3)
    env.reset([4, 5, 6])
    draws = np.random.default_rng(0)
    for _ in range(10):
        actions = draws.uniform(-1, 1, (3, 2, 1)).astype(np.float32)
        before = env.see()
        again.restore(before.state)
        one, other = env.step(actions), again.step(actions)
        np.testing.assert_allclose(one[0].state, other[0].state, atol=1e-6)
        np.testing.assert_allclose(one[1], other[1], atol=1e-6)
        assert np.array_equal(one[2], other[2])


def test_the_post_where_an_agent_is_at_the_end_is_its_convention() -> None:
    ends = np.array([[-1.0, -0.8, 1.0], [1.2, -1.0, 1.0], [0.0, 1.0, 1.0]], np.float32)
    found = environments.get("rendezvous").conventions(ends, None)
    assert found.followed.tolist() == [[0, 0], [1, 0], [-1, 1]]
    assert found.agreed.tolist() == [True, False, False]
