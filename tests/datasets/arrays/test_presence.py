"""Agents that leave before the others, or come later: masks, ends, batches and statistics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offline_marl.core.types import DataError, Needs
from offline_marl.datasets.arrays.presence import find_ends
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.episodes import join
from offline_marl.datasets.files import load_data, save_data
from offline_marl.datasets.normalize import best_values, obs_statistics
from offline_marl.datasets.statistics import action_counts, action_ranges, coverage, reward_kind
from offline_marl.datasets.validate import problems

EPISODES, LENGTH, AGENTS = 6, 10, 3
STEPS = EPISODES * LENGTH
LEFT = [6 if number % 2 else 9 for number in range(EPISODES)]
"""Agent 0's last step in each episode; the others stay until the end."""


def once() -> np.ndarray:
    flags = np.zeros((STEPS, AGENTS), bool)
    for number, step in enumerate(LEFT):
        flags[number * LENGTH + step, 0] = flags[number * LENGTH + 9, 1:] = True
    return flags


def repeated() -> np.ndarray:
    flags = once()
    for number, step in enumerate(LEFT):
        flags[number * LENGTH + step : (number + 1) * LENGTH, 0] = True
    return flags


def there() -> np.ndarray:
    mask = np.ones((STEPS, AGENTS), bool)
    for number, step in enumerate(LEFT):
        mask[number * LENGTH + step + 1 : (number + 1) * LENGTH, 0] = False
    return mask


def followed(values: np.ndarray, last: float | None = None) -> np.ndarray:
    """What followed each step: the next row, and behind each episode's last step `last`, or what was seen there."""
    after = np.roll(values, -1, axis=0)
    after[LENGTH - 1 :: LENGTH] = values[LENGTH - 1 :: LENGTH] if last is None else last
    return after


def given(discrete: bool = False, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    allowed = {"avail_actions": np.eye(3, dtype=bool)[rng.integers(1, 3, (STEPS, AGENTS))]} if discrete else {}
    return {
        "obs": rng.normal(size=(STEPS, AGENTS, 4)).astype("f4") + 5,
        "actions": allowed["avail_actions"].argmax(-1) if discrete else rng.uniform(-1, 1, (STEPS, AGENTS, 2)),
        "rewards": np.ones((STEPS, AGENTS), "f4"),
        "state": rng.normal(size=(STEPS, 2)),
        **allowed,
        **more,
    }


def as_agents(flags: np.ndarray) -> list[np.ndarray]:
    return list(flags.T)


CLOCK = np.arange(STEPS) % LENGTH == 9
FORMS: dict[str, dict[str, Any]] = {
    "once": {"terminations": once()},
    "repeated": {"terminations": repeated()},
    "list of agents": {"terminations": as_agents(once())},
    "tensors": {"terminations": torch.from_numpy(once())},
    "lengths and once": {"terminations": once(), "lengths": [LENGTH] * EPISODES},
    "lengths and repeated": {"terminations": repeated(), "lengths": [LENGTH] * EPISODES},
    "lengths and flags of those who leave early": {
        "terminations": once() & ~CLOCK[:, None],
        "lengths": [LENGTH] * EPISODES,
    },
    "cut by the clock": {"terminations": once() & ~CLOCK[:, None], "truncations": CLOCK},
    "terminated as a team": {"truncations": once() & ~CLOCK[:, None], "terminations": CLOCK},
    "mask": {"mask": there(), "lengths": torch.tensor([LENGTH] * EPISODES)},
}


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_an_episode_ends_when_all_have_left(form: str, discrete: bool) -> None:
    data = Dataset.from_arrays(**given(discrete), **FORMS[form])
    assert data.lengths.tolist() == [LENGTH] * EPISODES and data.mask is not None
    np.testing.assert_array_equal(data.mask.numpy(), there())
    ended = data.terminations | data.truncations
    np.testing.assert_array_equal(ended.numpy(), once())
    rows = torch.arange(STEPS) + torch.arange(STEPS) // LENGTH
    assert not data.obs[rows][~data.mask].any() and not data.rewards[~data.mask].any()
    assert not data.actions[~data.mask].any() and bool(data.obs[rows][data.mask].all())
    assert data.returns().tolist() == pytest.approx([10, 9] * 3)
    if form == "cut by the clock":
        assert data.terminations.sum() == 3 and data.truncations.sum() == EPISODES * AGENTS - 3
    if form == "terminated as a team":
        assert data.truncations.sum() == 3 and data.terminations.sum() == EPISODES * AGENTS - 3


def test_one_agent_and_teams_that_end_together_have_no_mask() -> None:
    alone = Dataset.from_arrays(np.ones((STEPS, 1, 2)), np.zeros((STEPS, 1, 1)), np.ones(STEPS), terminations=CLOCK)
    team = Dataset.from_arrays(**given(), truncations=CLOCK)
    assert alone.mask is None and team.mask is None and alone.lengths.tolist() == [LENGTH] * EPISODES


def test_recording_that_stops_early_cuts_whoever_is_there() -> None:
    flags = once()[:17]
    held = {name: value[:17] for name, value in given().items()}
    data = Dataset.from_arrays(**held, terminations=flags)
    assert data.lengths.tolist() == [10, 7] and data.terminations[16].tolist() == [True, False, False]
    assert data.truncations[16].tolist() == [False, True, True] and data.mask is None


def test_an_agent_that_ends_twice_in_an_episode_is_refused() -> None:
    flags = once()
    flags[12, 0] = True
    with pytest.raises(DataError, match="Agent 0 ends more than once in episode 1"):
        Dataset.from_arrays(**given(), terminations=flags)


def test_an_episode_that_goes_on_without_anybody_is_refused() -> None:
    flags = np.zeros((STEPS, AGENTS), bool)
    flags[4] = True
    with pytest.raises(DataError, match="Nobody is there|goes on after"):
        Dataset.from_arrays(**given(), terminations=flags, lengths=[LENGTH] * EPISODES)


def test_who_comes_later_is_absent_before() -> None:
    mask = np.ones((STEPS, AGENTS), bool)
    mask[:3, 1] = False
    data = Dataset.from_arrays(**given(), terminations=CLOCK, mask=mask, lengths=[LENGTH] * EPISODES)
    assert data.mask is not None and data.mask.tolist() == mask.tolist() and not data.obs[:3, 1].any()
    assert bool(data.obs[3, 1].all()) and data.terminations.sum() == EPISODES * AGENTS


def test_who_comes_back_is_refused() -> None:
    mask = there()
    mask[18:20, 0] = True  # it left after step 16
    with pytest.raises(DataError, match="Agent 0 comes back in episode 1, step 8: an agent that has left stays away"):
        Dataset.from_arrays(**given(), mask=mask, lengths=[LENGTH] * EPISODES)
    data = replace(leaving(), mask=torch.from_numpy(mask))
    sentences = [problem.sentence for problem in problems(data)]
    assert "An agent that has left comes back in episode 1, step 8 (1 rows in all)." in sentences


@pytest.mark.parametrize("flags", [once, repeated])
def test_episodes_of_teams_without_masks_say_by_their_flags_who_has_left(flags: Any) -> None:
    known = leaving(next_obs=followed(given()["obs"]), next_state=followed(given()["state"]))
    ended = torch.from_numpy(flags())
    plain = replace(known, mask=None, terminations=ended)
    data = Dataset.from_episodes([plain.episode(number) for number in range(EPISODES)], known.spec)
    assert torch.equal(data.mask, known.mask) and torch.equal(data.terminations, known.terminations)  # type: ignore[arg-type]
    assert torch.equal(data.rewards, known.rewards) and torch.equal(data.obs, known.obs)


def test_next_observations_are_kept_for_those_who_were_there_at_the_end() -> None:
    after = {"next_obs": followed(given()["obs"], 7.0), "next_state": followed(given()["state"], 1.0)}
    data = Dataset.from_arrays(**given(**after), terminations=once())
    assert data.ends_seen is None and data.episode(0).obs[-1].flatten().tolist() == [7.0] * 12
    assert data.episode(1).obs[-1].flatten().tolist() == [0.0] * 4 + [7.0] * 8


def test_next_observations_of_who_has_left_or_is_yet_to_come_are_not_compared() -> None:
    after, left = followed(given()["obs"], 7.0), ~there()
    after[left] = after[:-1][left[1:]] = -3.0  # after an agent's own last step, too
    data = Dataset.from_arrays(**given(next_obs=after, state=None), terminations=once())
    assert data.ends_seen is None and data.mask is not None
    with pytest.raises(DataError, match="'next_obs' of step 10 is not 'obs' of step 11"):
        after[10, 1] = -3.0
        Dataset.from_arrays(**given(next_obs=after, state=None), terminations=once())


def leaving(**more: Any) -> Dataset:
    return Dataset.from_arrays(**given(), **{"terminations": once(), **more})


def test_files_selections_joins_and_episodes_keep_masks_and_ends(tmp_path: Path) -> None:
    data = leaving()
    save_data(tmp_path / "x.safetensors", data)
    found: Any = load_data(tmp_path / "x.safetensors")
    again = Dataset.from_episodes([data.episode(number) for number in range(EPISODES)], data.spec)
    halves = join([data.select(torch.arange(3)), data.select(torch.arange(3, EPISODES))], {})
    for other in (found, again, halves):
        assert torch.equal(other.mask, data.mask) and torch.equal(other.ends_seen, data.ends_seen)
    plain = replace(data, mask=None, ends_seen=None, terminations=torch.from_numpy(repeated()))
    whole = join([plain, data], {})
    assert whole.mask is not None and whole.ends_seen is not None
    assert bool(whole.mask[:STEPS].all()) and whole.ends_seen.tolist() == [True] * EPISODES + [False] * EPISODES


def test_files_of_full_sets_are_what_they_were(tmp_path: Path) -> None:
    data = replace(leaving(), mask=None, ends_seen=None)
    save_data(tmp_path / "x.safetensors", data)
    text = (tmp_path / "x.safetensors").read_bytes()
    assert b"mask" not in text and b"ends_seen" not in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: replace(data, obs=data.obs + 1), "is away sees something else"),
        (lambda data: replace(data, rewards=data.rewards + 1), "is away acts, earns something or ends"),
        (lambda data: replace(data, mask=data.mask & False), "Nobody is there"),
        (lambda data: replace(data, mask=data.mask | True), "has ended is there afterwards"),
        (lambda data: replace(data, ends_seen=data.ends_seen[1:]), "one bool an episode"),
        (lambda data: replace(data, mask=data.mask[:, :1]), "mask"),
    ],
)
def test_contradictions_are_found(change: Any, said: str) -> None:
    assert any(said in problem.sentence for problem in problems(change(leaving())))


def test_batches_say_who_is_there_and_whose_next_observation_is_known() -> None:
    buffer = TransitionBuffer(leaving(), window=2)
    every = torch.arange(STEPS)
    raw = buffer.view(every, Needs(next_obs=False)).check()
    assert raw.mask is not None and torch.equal(raw.mask, torch.from_numpy(there()))
    assert raw.next_seen is not None and torch.equal(raw.next_seen, torch.from_numpy(there() & ~once()))
    # All of them terminate, so that a target is known everywhere.
    assert torch.equal(buffer.view(every, Needs()).mask, raw.mask)  # type: ignore[arg-type]
    cuts = buffer.view(torch.tensor([10]), Needs(view="segments", length=12))
    assert cuts.mask is not None and cuts.mask[0, :, 0].tolist() == [True] * 7 + [False] * 5
    assert cuts.mask[0, :, 1].tolist() == [True] * 10 + [False] * 2
    assert raw.team_terminations.nonzero().flatten().tolist() == [number * LENGTH + 9 for number in range(EPISODES)]


def test_steps_of_which_nobody_knows_what_followed_are_drawn_only_where_nobody_asks() -> None:
    data = leaving(terminations=once() & ~CLOCK[:, None], truncations=CLOCK)
    buffer, generator = TransitionBuffer(data), torch.Generator().manual_seed(0)
    drawn = buffer.draw(4000, generator, Needs())
    assert set(range(STEPS)) - set(drawn.tolist()) == {number * LENGTH + 9 for number in range(EPISODES)}
    assert set(buffer.draw(4000, generator, Needs(next_obs=False)).tolist()) == set(range(STEPS))
    mask = buffer.view(torch.tensor([9, 16]), Needs()).mask
    assert mask is not None and mask.tolist() == [[False] * 3, [True] * 3]
    truncated = TransitionBuffer(leaving(terminations=CLOCK, truncations=once() & ~CLOCK[:, None]))
    apart = truncated.view(torch.tensor([16, 19]), Needs()).mask
    assert apart is not None and apart.tolist() == [[False, True, True], [False, True, True]]
    together = truncated.view(torch.tensor([16, 19]), Needs(joint=True)).mask
    assert together is not None and together.tolist() == [[False] * 3, [False, True, True]]


def test_data_of_which_no_step_says_what_followed_can_only_be_cloned() -> None:
    data = Dataset.from_arrays(np.ones((4, 1, 1)), np.zeros((4, 1, 1)), np.ones(4), lengths=[1] * 4)
    buffer, generator = TransitionBuffer(data), torch.Generator().manual_seed(0)
    assert len(buffer.draw(8, generator, Needs(next_obs=False))) == 8
    with pytest.raises(DataError, match="No step of the data says what followed"):
        buffer.draw(8, generator, Needs())


def test_statistics_leave_absent_agents_and_repeated_rows_out() -> None:
    data = leaving()
    mean, std = obs_statistics(data)
    rows = torch.from_numpy(given()["obs"])
    seen = rows[:, 0][torch.from_numpy(there()[:, 0])]
    torch.testing.assert_close(mean[0], seen.mean(0))
    torch.testing.assert_close(std[1], rows[:, 1].std(0, correction=0))
    assert [int(each.sum()) for each in action_counts(data)] == [2 * (STEPS - 9), 2 * STEPS, 2 * STEPS]
    assert len(action_ranges(data)) == AGENTS and reward_kind(data) == "team"
    assert len(coverage(data).points) == STEPS


def test_the_best_value_of_an_agent_is_one_that_it_had() -> None:
    data = leaving()
    own, team = best_values(replace(data, rewards=-data.rewards), 1.0)
    assert own.tolist() == [-1, -1, -1] and float(team) == pytest.approx(-2 / 3)


def test_one_body_needs_no_agents() -> None:
    ends = find_ends(torch.tensor([False, True, False]), torch.zeros(3, dtype=torch.bool))
    assert ends.lengths.tolist() == [2, 1] and ends.truncations.tolist() == [False, False, True] and ends.mask is None
