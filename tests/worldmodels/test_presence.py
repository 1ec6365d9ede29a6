"""What world models read of agents that are away: as much as of a column that never moves, which is nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from offline_marl.core.config import build
from offline_marl.core.types import Batch
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.training.models.fit import facts_of
from offline_marl.worldmodels.base import WorldModel, worldmodels
from offline_marl.worldmodels.ensemble import Ensemble
from offline_marl.worldmodels.marie import Marie
from offline_marl.worldmodels.rollout import Caution, rollout

EPISODES, STEPS, LEFT = 4, 6, 3
TOKENS = {"guess": [16], "width": 16, "length": 3, "action_bins": 8, "reward_bins": 8}
MODELS = [
    ("ensemble", {}, 0),
    ("ensemble", {"predict": "absolute", "window": 2}, 0),
    ("ensemble", {"kind": "vae", "latent": 2, "window": 2}, 2),
    ("marie", {**TOKENS, "tokenizer_steps": 2, "window": 2}, 0),
    ("marie", {**TOKENS, "tokenizer_steps": 0, "window": 2}, 2),
]


def data(still: float, choices: int = 0) -> Dataset:
    """Two agents see a number and one that never moves; agent 1 leaves after three steps, or in turn comes then."""
    generator = torch.Generator().manual_seed(0)
    there = torch.ones(EPISODES, STEPS, 2, dtype=torch.bool)
    there[::2, LEFT:, 1], there[1::2, :LEFT, 1] = False, False
    seen = torch.cat([there, there[:, -1:]], dim=1).unsqueeze(-1)
    obs = torch.rand(EPISODES, STEPS + 1, 2, 1, generator=generator) + 0.5
    ended = torch.zeros_like(there)
    ended[::2, LEFT - 1, 1], ended[::2, -1, 0] = True, True
    if choices:
        actions = torch.randint(choices, (EPISODES, STEPS, 2), generator=generator) * there
    else:
        actions = (torch.rand(EPISODES, STEPS, 2, 1, generator=generator) * 2 - 1) * there.unsqueeze(-1)
    columns = {
        "obs": torch.cat([obs, torch.full_like(obs, still)], dim=-1) * seen,
        "actions": actions,
        "rewards": obs[:, :-1, :, 0] * there,
        "terminations": ended,
        "mask": there,
    }
    flat = {name: value.flatten(0, 1) for name, value in columns.items()}
    return Dataset.from_arrays(lengths=torch.full((EPISODES,), STEPS), choices=choices or None, **flat)


def model_of(recorded: Dataset, name: str, fields: dict[str, Any]) -> WorldModel:
    kind = worldmodels.get(name)
    few = {"members": 2, **({"elites": 2} if name == "ensemble" else {})}
    torch.manual_seed(0)
    made = kind(build(kind.Config, {"hidden": [16], **few, **fields}), facts_of(recorded))
    made.place("cpu", 0)
    return made


def batch_of(model: WorldModel, recorded: Dataset) -> Batch:
    index = torch.arange(EPISODES * STEPS)
    rows = TransitionBuffer(recorded, model.window).view(index, model.needs)
    return rows.map(lambda value: value.unflatten(0, (2, -1))) if isinstance(model, Ensemble) else rows


def scribbled(batch: Batch) -> Batch:
    """The same with other numbers seen where agents are away."""
    assert batch.mask is not None
    assert batch.next_seen is not None and batch.next_present is not None
    after = (batch.mask & batch.next_seen) | batch.next_present
    obs, next_obs = (
        torch.where(there.unsqueeze(-1), seen, 7.0)
        for there, seen in ((batch.mask, batch.obs), (after, batch.next_obs))
    )
    return replace(batch, obs=obs, next_obs=next_obs)


class Still:
    """Everybody does nothing."""

    def __init__(self, choices: int) -> None:
        self.choices, self.window = choices, 0

    def act(self, obs: Tensor, **_: Any) -> Tensor:
        return torch.zeros(*obs.shape[:2], dtype=torch.int64) if self.choices else torch.zeros(*obs.shape[:2], 1)


@pytest.mark.parametrize(("name", "fields", "choices"), MODELS)
def test_what_never_moves_says_nothing_of_who_is_away(name: str, fields: dict[str, Any], choices: int) -> None:
    found, imagined = [], []
    for still in (0.0, 5.0):
        recorded = data(still, choices)
        model = model_of(recorded, name, fields)
        losses = [float(model.update(batch_of(model, recorded))["loss/model"]) for _ in range(3)]
        starts = TransitionBuffer(recorded, model.window).transitions(torch.arange(EPISODES * STEPS))
        found.append([*losses, *model.errors(starts).tolist()])
        made = rollout(model, Still(choices), starts, 3, Caution(cutoff=math.inf))
        assert made.batch.mask is not None and not bool(made.batch.mask.all())
        imagined.append([made.batch.next_obs[..., 0], made.batch.rewards, made.batch.mask.float(), made.spread])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    torch.testing.assert_close(*imagined, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "fields", "choices"), MODELS)
def test_an_update_does_not_hang_on_what_stands_where_agents_are_away(
    name: str, fields: dict[str, Any], choices: int
) -> None:
    recorded, ends = data(5.0, choices), []
    for change in (lambda batch: batch, scribbled):
        model = model_of(recorded, name, fields)
        batch = change(batch_of(model, recorded))
        errors = model.errors(batch.map(lambda value: value.flatten(0, 1)) if isinstance(model, Ensemble) else batch)
        losses = [float(model.update(batch)["loss/model"]) for _ in range(3)]
        ends.append([*errors.tolist(), *losses])
    assert ends[0] == pytest.approx(ends[1], rel=1e-6)


@pytest.mark.parametrize("settings", [{}, {"decoding": "parallel"}, {"tokens_of": "observations"}])
def test_a_past_in_which_agents_came_and_left_is_read_as_in_training(settings: dict[str, Any]) -> None:
    """By the cache: what each agent that is there is told by a whole pass over the recorded steps."""
    recorded = data(5.0, 2)
    model = model_of(recorded, "marie", {**TOKENS, "length": 6, "tokenizer_steps": 0, "window": 3, **settings})
    assert isinstance(model, Marie)
    nets, plain = model.nets, TransitionBuffer(recorded, 0)
    with torch.no_grad():
        for parameter in nets.parameters():  # so that nothing hides behind small weights
            parameter.add_(0.2 * torch.randn(parameter.shape))
    rows = TransitionBuffer(recorded, 3).transitions(torch.arange(EPISODES * STEPS))
    carry = model.begin(rows)
    beside = (
        None if carry.now is None else model.codec.exact(model.facts.filled(carry.now, carry.present), rows.actions)
    )
    cache = nets.prefill(carry.obs, carry.actions, carry.known, carry.blank, carry.exact, carry.unread)
    done = model._act_tokens(rows.actions)
    there = carry.present
    found = nets.told(
        nets.advance(cache, carry.obs[:, -1], done, carry.present, carry.blank, beside, carry.unread)
    ).rewards
    for row in range(EPISODES * STEPS):
        episode, step = divmod(row, STEPS)
        begin = max(step - 3, 0)
        told = whole(model, plain.segments(torch.tensor([episode * STEPS + begin]), step - begin + 1))
        torch.testing.assert_close(found[:, row, there[row]], told[:, 0, -1, there[row]], atol=1e-5, rtol=0)


def whole(model: Marie, cuts: Batch) -> Tensor:
    """Classes of rewards of segments, as in training."""
    assert cuts.mask is not None and cuts.next_seen is not None and cuts.next_present is not None
    after = (cuts.mask & cuts.next_seen) | cuts.next_present
    now, following = model.facts.filled(cuts.obs, cuts.mask), model.facts.filled(cuts.next_obs, after)
    exact = model.codec.exact(now, cuts.actions)
    tokens = model.codec.encode(torch.cat([now[:, :1], following], dim=1), exact)
    return model.nets(tokens, model._act_tokens(cuts.actions), cuts.mask, exact)[1].rewards


def test_imagination_goes_on_past_the_positions_where_agents_come_and_leave() -> None:
    recorded = data(5.0, 2)
    for at_once in (1_000, 5):
        model = model_of(recorded, "marie", {**TOKENS, "tokenizer_steps": 2, "window": 2, "rows_at_once": at_once})
        starts = TransitionBuffer(recorded, 2).transitions(torch.arange(EPISODES * STEPS))
        made = rollout(model, Still(2), starts, 7, Caution(cutoff=math.inf))
        assert made.batch.mask is not None and starts.mask is not None
        assert torch.equal(made.batch.mask[:, 0], starts.mask) and bool(made.batch.next_obs.isfinite().all())


@pytest.mark.parametrize(("name", "fields", "choices"), [case for case in MODELS if case[0] == "ensemble"])
def test_no_input_is_larger_than_what_agents_show_that_are_there(
    name: str, fields: dict[str, Any], choices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, read = data(5.0, choices), []
    never = torch.zeros_like(recorded.terminations)  # so that no row is over and goes on unread
    recorded = replace(recorded, terminations=never, truncations=recorded.truncations | recorded.terminations)
    model = model_of(recorded, name, fields)
    assert isinstance(model, Ensemble)
    inputs = model._inputs

    def watched(*given: Any) -> Any:
        made = inputs(*given)
        read.extend(float(part.abs().max()) for part in made if part is not None)
        return made

    monkeypatch.setattr(model, "_inputs", watched)
    model.update(batch_of(model, recorded))
    starts = TransitionBuffer(recorded, model.window).transitions(torch.arange(EPISODES * STEPS))
    model.errors(starts)
    rollout(model, Still(choices), starts, 3, Caution(cutoff=math.inf))  # clamped to the range of the data
    assert len(read) > 4 and max(read) < 3


def test_zeros_of_who_is_away_are_not_what_another_one_sees() -> None:
    """Agent 0 sees 5 while agent 1 is there, which always sees 5."""
    recorded = data(5.0)
    obs = recorded.obs.clone()
    obs[:, 0, 1] = obs[:, 1, 1]
    facts = facts_of(replace(recorded, obs=obs))
    assert facts.coordinates == 4
    assert facts.obs_mean[3] == 5.0 and 1.0 < float(facts.obs_mean[1]) < 4.0
