"""The border of `act`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offline_marl.algorithms.base import algorithms
from offline_marl.core.acting.inputs import unchecked
from offline_marl.core.types import DataError, Spec

CONTINUOUS, DISCRETE = Spec((4, 3), (2, 1)), Spec((4, 3), (3, 2), action_kind="discrete")
EVERY = [("bc", CONTINUOUS), ("td3-bc", CONTINUOUS), ("ma-ppo", CONTINUOUS), ("cql", DISCRETE), ("bc", DISCRETE)]


def team(name="bc", spec=CONTINUOUS, **fields):
    kind = algorithms.get(name)
    torch.manual_seed(0)
    return kind(kind.Config(hidden=(8,), **fields), spec)


@pytest.mark.parametrize(("name", "spec"), EVERY)
def test_other_last_axes_are_refused(name, spec):
    learner = team(name, spec)
    for shape in ((4,), (), (3, 1, 4), (3, 2, 1), (1, 4), (2, 3), (4, 2), (3, 4, 2)):
        with pytest.raises(DataError, match=r"obs of shape .* should be \[\.\.\., agent, obs\], here \[\.\.\., 2, 4\]"):
            learner.act(torch.zeros(shape))


@pytest.mark.parametrize(("name", "spec"), EVERY)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(name, spec, bad):
    obs = torch.zeros(3, 2, 4)
    obs[1, 1, 2] = bad
    with pytest.raises(DataError, match="not finite"):
        team(name, spec).act(obs)


@pytest.mark.parametrize(("name", "spec"), EVERY)
def test_arrays_lists_and_other_dtypes_act_as_tensors(name, spec):
    learner, obs = team(name, spec), torch.randn(3, 2, 4)
    right = learner.act(obs)
    forms = [
        obs.numpy(),
        obs.double(),
        obs.double().numpy(),
        obs.tolist(),
        list(obs),
        [list(row) for row in obs.numpy()],
    ]
    for form in forms:
        assert torch.equal(learner.act(form), right), type(form)
    torch.testing.assert_close(learner.act(obs[0].numpy()), right[0])
    assert torch.equal(learner.act(torch.ones(3, 2, 4, dtype=torch.int64)), learner.act(torch.ones(3, 2, 4)))


def test_histories_and_masks_of_another_shape_are_refused():
    learner, obs = team(window=2), torch.zeros(3, 2, 4)
    assert learner.act(obs, history=np.zeros((3, 2, 2, 6))).shape == (3, 2, 2)
    for shape in ((3, 2, 1, 6), (3, 1, 2, 6), (3, 2, 2, 1)):
        with pytest.raises(DataError, match="history of shape"):
            learner.act(obs, history=torch.zeros(shape))
    with pytest.raises(DataError, match="history has the leading axes"):
        learner.act(obs, history=torch.zeros(1, 2, 2, 6))
    with pytest.raises(DataError, match="reads a history of 2 pairs"):
        learner.act(obs)
    chooser = team(spec=DISCRETE)
    only = [[[0, 0, 1], [0, 1, 0]]] * 3
    assert chooser.act(obs, avail_actions=only).tolist() == [[2, 1]] * 3
    for shape in ((3, 2, 1), (3, 1, 3)):
        with pytest.raises(DataError, match="avail_actions of shape"):
            chooser.act(obs, avail_actions=torch.ones(shape, dtype=torch.bool))
    with pytest.raises(DataError, match="avail_actions has the leading axes"):
        chooser.act(obs, avail_actions=torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(DataError, match="allows agent_1 nothing"):
        chooser.act(obs, avail_actions=torch.tensor([[[True] * 3, [False, False, True]]] * 3))


@pytest.mark.parametrize("bad", [[[0.0] * 4, [0.0] * 3], {"agent_0": [0.0] * 4}, "obs", None, object()])
def test_what_is_no_array_is_refused(bad):
    with pytest.raises(DataError, match="actor"):
        team().act(bad)


def test_an_own_act_may_give_the_inherited_one_other_shapes():
    class Repeating(algorithms.get("bc")):
        def act(self, obs, *, history=None, avail_actions=None, explore=False):
            return super().act(obs[..., :1, :].expand_as(obs), explore=explore) if obs.dim() else super().act(obs)

    learner = Repeating(algorithms.get("bc").Config(hidden=(8,)), CONTINUOUS)
    with pytest.raises(DataError, match="obs of shape"):
        learner.act(torch.zeros(3, 1, 4))
    assert learner.act(torch.zeros(3, 2, 4)).shape == (3, 2, 2)
    assert unchecked(learner)(torch.full((3, 2, 4), torch.nan)).shape == (3, 2, 2)
