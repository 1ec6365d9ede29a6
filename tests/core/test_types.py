from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch

from offline_marl.core.axes import AxisError
from offline_marl.core.types import Batch, DataError, Episode, Needs, Spec


def make_batch(*lead: int, agents: int = 2, discrete: bool = False) -> Batch:
    return Batch(
        obs=torch.randn(*lead, agents, 3),
        actions=torch.zeros(*lead, agents, dtype=torch.int64) if discrete else torch.rand(*lead, agents, 2),
        rewards=torch.randn(*lead, agents),
        next_obs=torch.randn(*lead, agents, 3),
        terminations=torch.zeros(*lead, agents, dtype=torch.bool),
        truncations=torch.zeros(*lead, agents, dtype=torch.bool),
    )


def test_spec_tells_padded_widths_and_which_entries_are_real() -> None:
    spec = Spec(obs_dims=(3, 1), act_dims=(1, 2), window=4)
    assert (spec.n_agents, spec.obs_dim, spec.act_dim, spec.step_dim) == (2, 3, 2, 5)
    assert spec.agents == ("agent_0", "agent_1")
    assert spec.present("obs").tolist() == [[True, True, True], [True, False, False]]
    assert spec.present("act").tolist() == [[True, False], [True, True]]
    assert not spec.discrete


def test_spec_survives_json() -> None:
    spec = Spec((3, 1), (4, 5), state_dim=7, action_kind="discrete", window=2)
    assert Spec.from_plain(json.loads(json.dumps(asdict(spec)))) == spec


@pytest.mark.parametrize("lead", [(5,), (5, 4)])
@pytest.mark.parametrize("discrete", [False, True])
def test_a_batch_that_agrees_passes_and_is_itself(lead: tuple[int, ...], discrete: bool) -> None:
    batch = make_batch(*lead, discrete=discrete)
    assert batch.check() is batch


@pytest.mark.parametrize(
    ("field", "shape"),
    [
        ("rewards", (5, 2, 1)),
        ("rewards", (5, 3)),
        ("next_obs", (5, 2, 4)),
        ("actions", (5, 3, 2)),
        ("actions", (4, 2, 2)),
        ("actions", (5, 2)),
        ("state", (4, 6)),
        ("history", (5, 3, 4, 5)),
        ("mask", (5,)),
        ("synthetic", (5, 2)),
        ("avail_actions", (5, 2)),
    ],
)
def test_a_field_of_a_wrong_shape_is_named(field: str, shape: tuple[int, ...]) -> None:
    batch = replace(make_batch(5), **{field: torch.zeros(shape)})
    with pytest.raises(AxisError, match=field):
        batch.check()


def test_state_and_next_state_have_one_width() -> None:
    batch = replace(make_batch(5), state=torch.zeros(5, 6), next_state=torch.zeros(5, 7))
    with pytest.raises(AxisError, match="next_state"):
        batch.check()


def test_segments_flatten_to_transitions_in_order() -> None:
    batch = replace(make_batch(3, 4), synthetic=torch.arange(12).view(3, 4))
    flat = batch.flatten().check()
    assert len(flat) == 12
    assert flat.synthetic is not None and flat.synthetic.tolist() == list(range(12))
    assert torch.equal(flat.obs[5], batch.obs[1, 1])
    assert flat.flatten() is flat


def test_batches_join_row_after_row() -> None:
    first, second = make_batch(2), make_batch(3)
    joined = Batch.cat([first, second]).check()
    assert len(joined) == 5
    assert torch.equal(joined.obs[2:], second.obs)
    assert joined.state is None


def test_batches_that_hold_different_fields_do_not_join() -> None:
    with pytest.raises(DataError, match="only some hold state"):
        Batch.cat([make_batch(2), replace(make_batch(3), state=torch.zeros(3, 4))])


def test_map_reaches_every_tensor_and_skips_what_is_absent() -> None:
    doubled = make_batch(2).map(lambda value: torch.cat([value, value]))
    assert len(doubled.check()) == 4
    assert doubled.history is None
    assert doubled.to("cpu").obs.device.type == "cpu"


def test_an_episode_is_as_long_as_its_actions() -> None:
    steps = torch.zeros(4, 2)
    assert len(Episode(torch.zeros(5, 2, 3), torch.zeros(4, 2, 1), steps, steps.bool(), steps.bool())) == 4


def test_next_actions_have_the_shape_of_actions_and_come_with_their_mask() -> None:
    batch = make_batch(5)
    known = torch.ones(5, 2, dtype=torch.bool)
    whole = replace(batch, next_actions=batch.actions, next_mask=known)
    assert whole.check() is whole
    with pytest.raises(AxisError, match=r"next_actions have shape \(5, 2\), but actions have \(5, 2, 2\)"):
        replace(whole, next_actions=torch.zeros(5, 2)).check()
    with pytest.raises(AxisError, match="next_mask has shape"):
        replace(whole, next_mask=known[:4]).check()
    for alone in (replace(whole, next_mask=None), replace(whole, next_actions=None)):
        with pytest.raises(AxisError, match="one of them is missing"):
            alone.check()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"view": "segments", "length": -1}, "neither is negative"),
        ({"view": "segments", "length": 2, "burn_in": -1}, "neither is negative"),
        ({"burn_in": 2}, "Only segments of a fixed length"),
        ({"view": "segments", "length": 0, "burn_in": 2}, "Only segments of a fixed length"),
    ],
)
def test_needs_that_mean_nothing_are_refused(fields: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Needs(**fields)
