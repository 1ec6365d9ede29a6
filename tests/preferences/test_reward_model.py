from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from offline_marl.core.acting.history import pairs
from offline_marl.core.config import build
from offline_marl.core.types import Batch, Spec
from offline_marl.losses import preferences
from offline_marl.preferences.reward_model import Comparisons, RewardModel, RewardModelConfig, mean_and_spread

SPECS = {"continuous": Spec((3, 2), (1, 2)), "discrete": Spec((3, 2), (2, 4), action_kind="discrete")}


def model(kind: str = "continuous", **fields: object) -> RewardModel:
    spec = SPECS[kind]
    torch.manual_seed(0)
    config = build(RewardModelConfig, {"hidden": [8, 8], "members": 3, **fields})
    made = RewardModel(config, spec, torch.zeros(2, 3), torch.ones(2, 3))
    made.place("cpu", 1)
    return made


def segments(kind: str, *lead: int, seed: int = 0) -> Batch:
    spec, generator = SPECS[kind], torch.Generator().manual_seed(seed)
    obs = torch.randn(*lead, 2, 3, generator=generator) * spec.present("obs")
    if kind == "discrete":
        actions = torch.randint(2, (*lead, 2), generator=generator)
    else:
        actions = torch.rand(*lead, 2, 2, generator=generator) * spec.present("act")
    flags = torch.zeros(*lead, 2, dtype=torch.bool)
    return Batch(obs, actions, flags.float(), obs, flags, flags, mask=~flags)


def comparisons(kind: str = "continuous", pairs: int = 6, time: int = 5, seed: int = 0) -> Comparisons:
    made = segments(kind, 3, pairs, 2, time, seed=seed)
    labels = torch.tensor([1.0, 0.0, 0.5]).repeat(2)[:pairs].expand(3, -1)
    targets = torch.tensor([-1, 0, 1]).repeat(2)[:pairs].expand(3, -1)
    held = {name: getattr(made, name) for name in ("obs", "actions", "rewards", "terminations", "truncations", "mask")}
    every = torch.ones_like(labels, dtype=torch.bool)
    batch = Comparisons(**held, next_obs=made.obs, labels=labels, targets=targets, labelled=every)
    return batch.check()


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_every_parameter_of_every_member_moves_and_metrics_are_finite(kind, recurrent, layer_norm) -> None:
    learner = model(kind, recurrent=recurrent, layer_norm=layer_norm, surf_weight=0.5, surf_threshold=0.5)
    before = {name: value.clone() for name, value in learner.network.named_parameters()}
    batch = comparisons(kind)
    labelled = batch.labelled.clone()
    labelled[:, 4:] = False
    metrics = learner.update(replace(batch, labelled=labelled))
    assert all(bool(value.isfinite()) for value in metrics.values()) and "loss/pseudo" in metrics
    for name, value in learner.network.named_parameters():
        changed = (value != before[name]).flatten(1).any(1)
        assert bool(changed.all()), name
    assert not any(parameter.requires_grad for parameter in learner.best_network.parameters())


@pytest.mark.parametrize("recurrent", [False, True])
def test_members_learn_apart(recurrent) -> None:
    # The gradient of one member's parameters depends on its own rows alone.
    batch = comparisons()
    other = replace(batch, obs=torch.cat([batch.obs[:1], batch.obs[1:] + 1.0]))
    grads = []
    for rows in (batch, other):
        learner = model(recurrent=recurrent, grad_clip=0.0)
        learner.update(rows)
        grads.append([parameter.grad[0] for parameter in learner.network.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*grads, strict=True))


@pytest.mark.parametrize("settings", [{}, {"joint": True}, {"recurrent": True}, {"surf_weight": 1.0}], ids=str)
def test_labels_of_agents_are_learnt_from_without_the_rewards_of_the_others(settings, monkeypatch) -> None:
    batch = comparisons(time=20)
    targets = torch.arange(batch.targets.numel()).view_as(batch.targets) % batch.mask.shape[-1]
    mask = batch.mask.clone()
    mask[:, 0, 0, 9:, 0] = False  # an agent that leaves in the first segment
    mask[:, 1, 1, :11, 1] = False  # and one that comes late
    batch = replace(batch, targets=targets, agents=targets, mask=mask)
    read, made = [], []
    for whole in (False, True):
        learner = model(alpha=0.0, grad_clip=0.0, **settings)
        if whole:
            monkeypatch.setattr(type(learner), "_spoken_of", lambda self, batch: None)
        learner.network.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].shape[1]))
        metrics = learner.update(batch)
        del metrics["loss/smoothness"]  # of those whose rewards there are
        made.append([parameter.grad for parameter in learner.network.parameters()] + [*metrics.values()])
    assert read[1] == read[0] * batch.mask.shape[-1]
    torch.testing.assert_close(made[0], made[1])


def test_what_speaks_of_all_agents_has_the_rewards_of_all() -> None:
    batch = comparisons()
    targets = torch.zeros_like(batch.targets)
    own = replace(batch, targets=targets, agents=targets)
    assert model(alpha=0.0)._spoken_of(own) is not None
    assert model(alpha=0.1)._spoken_of(own) is None
    assert model(alpha=0.0)._spoken_of(replace(own, agents=None)) is None
    assert model(alpha=0.0)._spoken_of(replace(own, kinds=torch.zeros_like(own.targets))) is None


def test_learning_tells_what_labels_say() -> None:
    learner = model(lr=0.01, alpha=0.0, weight_decay=0.0)
    for step in range(300):
        batch = comparisons(pairs=32 if step < 0 else 6, seed=step)
        margin = batch.obs[..., 0, 0].sum(-1)
        labels = (margin[..., 0] > margin[..., 1]).float()
        learner.update(replace(batch, labels=labels, targets=torch.full_like(batch.targets, -1)))
    test = segments("continuous", 200, 5, seed=999)
    scores = learner.scores(test).sum(-1).mean(0)
    assert torch.corrcoef(torch.stack([scores, test.obs[..., 0, 0].sum(-1)]))[0, 1] > 0.95


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("recurrent", [False, True])
def test_what_does_not_count_changes_no_score(recurrent, joint) -> None:
    learner = model(recurrent=recurrent, joint=joint)
    batch = segments("continuous", 4, 6)
    mask = batch.mask.clone()
    mask[:, 4:] = False
    mask[1, 1:3, 1] = False  # an agent that is away for a while
    odd = replace(batch, obs=torch.where(mask.unsqueeze(-1), batch.obs, 50.0), mask=mask)
    made, other = learner.predict(replace(batch, mask=mask)), learner.predict(odd)
    assert torch.equal(made, other) and not made[:, ~mask].any()


@pytest.mark.parametrize("joint", [False, True])
def test_a_recurrent_model_reads_an_episode_alike_whole_and_from_within(joint) -> None:
    learner = model("discrete", recurrent=True, burn_in=8, joint=joint)
    batch = segments("discrete", 4, 7)
    whole = learner.predict(batch)
    steps = pairs(batch.obs, batch.actions, learner.spec)
    past = steps[:, :3].transpose(1, 2)
    before = torch.cat([torch.zeros(4, 2, 5, past.shape[-1]), past], dim=2)
    rest = learner.predict(batch.map(lambda value: value[:, 3:]), before)
    torch.testing.assert_close(rest, whole[:, :, 3:])
    assert not torch.allclose(learner.predict(batch.map(lambda value: value[:, 3:])), whole[:, :, 3:])


def test_rows_read_together_or_apart_are_paid_alike(monkeypatch) -> None:
    learner, batch = model(recurrent=True), segments("continuous", 9, 4)
    whole = learner.predict(batch)
    monkeypatch.setattr("offline_marl.preferences.reward_model.ROWS_AT_ONCE", 16)
    torch.testing.assert_close(learner.predict(batch), whole)


@pytest.mark.parametrize("told", [False, True])
def test_agents_are_told_apart_only_if_asked(told) -> None:
    learner = model("continuous", agent_id=told)
    batch = segments("continuous", 4, 6)
    same = replace(batch, obs=batch.obs[..., :1, :].expand_as(batch.obs), actions=torch.zeros_like(batch.actions))
    rewards = learner.predict(same)
    assert torch.allclose(rewards[..., 0], rewards[..., 1]) != told


@pytest.mark.parametrize("joint", [False, True])
def test_an_agents_reward_depends_on_the_others_only_if_asked(joint) -> None:
    learner, batch = model(joint=joint), segments("continuous", 4, 6)
    other = batch.obs.clone()
    other[..., 1, :] += 1.0
    made, changed = learner.predict(batch), learner.predict(replace(batch, obs=other))
    assert torch.equal(made[..., 0], changed[..., 0]) != joint and not torch.equal(made[..., 1], changed[..., 1])


def test_observations_are_read_in_deviations_of_the_data() -> None:
    config = build(RewardModelConfig, {"hidden": [8], "members": 1})
    batch = segments("continuous", 4, 6)
    mean, std = torch.tensor([[1.0, 2.0, 3.0]] * 2), torch.tensor([[2.0, 4.0, 0.5]] * 2)
    made = []
    for shift, scale in ((torch.zeros(2, 3), torch.ones(2, 3)), (mean, std)):
        torch.manual_seed(0)
        made.append(RewardModel(config, SPECS["continuous"], shift, scale).predict(
            replace(batch, obs=batch.obs * scale + shift)
        ))  # fmt: skip
    torch.testing.assert_close(made[0], made[1])


def test_hidden_layers_are_normalised_where_asked() -> None:
    learner, batch = model(hidden=[2], members=1, agent_id=False, layer_norm=True), segments("continuous", 4, 6)
    first, head = (learner.network.head.parameters_by_layer()[index] for index in (0, -1))
    features = learner._features(batch.obs, batch.actions, batch.mask)
    hidden = features @ first.weight[0] + first.bias[0]
    # Two numbers are normalised to 1 and -1 but for the 1e-5 beside their variance, of which the larger one is left.
    deviation = (hidden[..., 0] - hidden[..., 1]).abs() / 2
    left = deviation / (deviation.square() + 1e-5).sqrt()
    larger = (hidden[..., 1] > hidden[..., 0]).long()
    expected = left * head.weight[0, larger, 0] + head.bias[0, 0, 0]
    torch.testing.assert_close(learner.predict(batch)[0], expected)


def test_each_members_best_weights_come_back() -> None:
    learner = model()
    learner.snapshot(torch.tensor([True, True, True]))
    kept = [value.clone() for value in learner.network.state_dict().values()]
    learner.update(comparisons())
    learner.snapshot(torch.tensor([False, True, False]))
    later = [value.clone() for value in learner.network.state_dict().values()]
    learner.update(comparisons(seed=1))
    learner.conclude(torch.zeros(3))
    for value, first, second in zip(learner.network.state_dict().values(), kept, later, strict=True):
        assert torch.equal(value[0], first[0]) and torch.equal(value[1], second[1]) and torch.equal(value[2], first[2])


def test_mean_and_spread_by_hand() -> None:
    mean, spread = mean_and_spread(torch.tensor([[[1.0]], [[4.0]], [[4.0]]]))
    assert mean.item() == 3.0 and spread.item() == pytest.approx(2**0.5)
    assert mean_and_spread(torch.ones(1, 2, 2))[1].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_the_loss_by_hand() -> None:
    learner = model(alpha=2.0, grad_clip=0.0)
    # Every member pays obs of agent 0: made by a network that is replaced.
    learner.network.forward = lambda steps, away, state=None: steps[..., 0] * (steps[..., -2] == 1)  # type: ignore[method-assign]
    batch = comparisons(pairs=2, time=2)
    obs = torch.zeros_like(batch.obs)
    obs[:, :, 0, :, 0, 0] = torch.tensor([1.0, 2.0])  # the first segment scores 3, and its reward rises by 1
    targets = torch.tensor([[-1, 1]] * 3)  # agent 1 is paid nothing
    labels = torch.tensor([[1.0, 0.0]] * 3)
    learner.descend = lambda loss, name="": found.append(loss.item())  # type: ignore[method-assign]
    found: list[float] = []
    metrics = learner.update(replace(batch, obs=obs, targets=targets, labels=labels))
    expected = (torch.nn.functional.softplus(torch.tensor(-3.0)).item() + 0.6931472) / 2
    # Of two sides and two agents, one has sum_t of squares 1.
    assert metrics["loss/preferences"].item() == pytest.approx(expected)
    assert metrics["loss/smoothness"].item() == pytest.approx(0.25)
    assert found == [pytest.approx(3 * (expected + 2 * 0.25))] and metrics["accuracy"].item() == 0.5


def judged(kinds: list[int], values: list[float], targets: list[int]) -> Comparisons:
    """Rows of the three kinds; of ratings and credit both sides are one segment."""
    batch = comparisons(pairs=len(kinds))
    what = torch.tensor(kinds).expand(3, -1)
    same = (what != 0).view(3, -1, 1, 1, 1, 1)
    obs = torch.where(same, batch.obs[:, :, :1], batch.obs)
    acts = torch.where(same, batch.actions[:, :, :1], batch.actions)
    told = {"labels": torch.tensor(values).expand(3, -1), "targets": torch.tensor(targets).expand(3, -1)}
    return replace(batch, obs=obs, next_obs=obs, actions=acts, labelled=what == 0, kinds=what, **told)


def test_ratings_and_credit_are_terms_of_the_loss_by_their_weights() -> None:
    batch = judged([0, 1, 1, 2, 2, 0], [1.0, 5.0, 2.0, 1.0, -1.0, 0.0], [-1, -1, 1, -1, -1, 0])
    learner = model(alpha=0.0)
    names = ("obs", "actions", "rewards", "next_obs", "terminations", "truncations", "mask")
    firsts = [Batch(**{name: getattr(batch, name)[member, :, 0] for name in names}) for member in range(3)]
    scores = torch.stack([learner.predict(one)[member].sum(-2) for member, one in enumerate(firsts)])
    metrics = learner.update(batch)
    team, second = scores[:, 1].sum(-1), scores[:, 2, 1]
    one = preferences.rating_loss(team, torch.full((3,), 5.0), 5)
    other = preferences.rating_loss(second, torch.full((3,), 2.0), 5)
    assert metrics["loss/ratings"].item() == pytest.approx(((one + other) / 2).mean().item(), rel=1e-4)
    logs = torch.log_softmax(scores[:, 3:5], -1)
    credit = -(logs[:, 0, 1] + logs[:, 1].mean(-1)) / 2
    assert metrics["loss/credit"].item() == pytest.approx(credit.mean().item(), rel=1e-4)
    steps = {}
    for weights in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        learner = model(alpha=0.0, grad_clip=0.0, rating_weight=weights[0], credit_weight=weights[1])
        learner.update(batch)
        steps[weights] = [parameter.grad.clone() for parameter in learner.network.parameters()]
    none = model(alpha=0.0, grad_clip=0.0)
    none.update(replace(batch, kinds=None))
    bare = [parameter.grad for parameter in none.network.parameters()]
    assert all(torch.allclose(one, two) for one, two in zip(steps[0.0, 0.0], bare, strict=True))
    for weighted in ((1.0, 0.0), (0.0, 1.0)):
        assert any(not torch.allclose(one, two) for one, two in zip(steps[weighted], bare, strict=True))


def test_judged_segments_are_no_open_pairs_of_pseudo_labels() -> None:
    batch = judged([0, 0, 0, 1, 2, 0], [1.0, 0.0, 1.0, 5.0, 1.0, 0.0], [-1] * 6)
    batch = replace(batch, labelled=batch.labelled & (torch.arange(6) != 5))
    metrics = model(surf_weight=1.0, surf_threshold=0.5, surf_crop=1.0).update(batch)
    assert metrics["pseudo/share"].item() == 1.0, "the one open pair is the sixth"


def test_agents_that_are_away_all_the_time_keep_gradients_finite() -> None:
    batch = judged([0, 2, 0, 0, 0, 1], [1.0, 1.0, 0.0, 1.0, 0.0, 4.0], [-1] * 6)
    mask = batch.mask.clone()
    mask[:, 1:, ..., 0] = False
    mask[:, 2] = False
    learner = model()
    learner.update(replace(batch, mask=mask))
    assert all(bool(parameter.grad.isfinite().all()) for parameter in learner.network.parameters())


@pytest.mark.parametrize("surf_weight", [0.0, 0.5])
def test_to_survive_longer_is_learnt_to_be_better_with_crops_as_without(surf_weight: float) -> None:
    """Nothing but the length of segments tells which are better: all that is seen is drawn anew for each update."""
    learner = model(alpha=0.0, lr=1e-2, surf_weight=surf_weight, surf_threshold=0.95, surf_crop=0.5)
    first = torch.arange(6) < 3
    survives = torch.stack([first, ~first], dim=-1)[:, :, None, None]
    for seed in range(60):
        batch = comparisons(pairs=6, time=20, seed=seed)
        mask = batch.mask & (survives | (torch.arange(20) < 6)[:, None])
        everybody = torch.full_like(batch.targets, -1)
        learner.update(replace(batch, mask=mask, labels=first.float().expand(3, -1), targets=everybody))
    assert learner.predict(segments("continuous", 50, 20, seed=100)).mean() > 0.5
