from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from compared import compare, small_reward
from runs import ending, refuse_difference, score_in_point_env, small_fit, small_run, start_and_kill
from worlds import saved, world

from offline_marl.algorithms.base import algorithms
from offline_marl.core.acting.history import windows
from offline_marl.core.config import ConfigError, build
from offline_marl.core.types import Batch, DataError
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.preferences.reward_model import mean_and_spread
from offline_marl.runs.config import RunConfig
from offline_marl.runs.folder import RunFolder, RunFolderError
from offline_marl.runs.places import resolve_run
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training import run as running
from offline_marl.training.models import fit as fitting
from offline_marl.training.preferences import relabel as room
from offline_marl.training.preferences.loading import load_reward
from offline_marl.training.preferences.relabel import LearnedReward, Mixing, Statistics, measure
from offline_marl.training.rewards import Rewards, whole_episodes
from offline_marl.training.sources.choose import plan_source

KINDS = ("continuous", "discrete")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("relabel")


@pytest.fixture(scope="module")
def made(place):
    """Data, a reward model and a bc run of each kind of actions."""
    parts = {}
    with pytest.MonkeyPatch.context() as patch:
        score_in_point_env(patch)
        patch.setattr(fitting, "draw_report", lambda *_: None)
        for kind in KINDS:
            data = saved(place, world(kind, episodes=20), f"{kind}.safetensors")
            comparisons = compare(place / f"{kind}-c", data, budget=60, length=3, steepness="perfect")
            small_reward(place / f"{kind}-r", data, comparisons)
            small_reward(place / f"{kind}-gru", data, comparisons, recurrent=True)
            small_run(place / f"{kind}-bc", data, window=3)
            parts[kind] = data
    return parts


@pytest.fixture(autouse=True)
def _scored(monkeypatch):
    score_in_point_env(monkeypatch)
    monkeypatch.setattr(fitting, "draw_report", lambda *_: None)


class Fixed:
    """Two members that pay what the first numbers of an observation say."""

    window = 0

    def to(self, device):
        return self

    def predict(self, batch, before=None):
        return torch.stack([batch.obs[..., 0], batch.obs[..., 1]])


class Likely:
    """A reference policy that holds every action as likely as it is told."""

    window = 0

    def __init__(self, log_prob: float) -> None:
        self.told = log_prob

    def log_prob(self, batch):
        return torch.full_like(batch.rewards, self.told)


def rows(values: list[list[float]], kind: str = "continuous") -> Batch:
    spec = world(kind, episodes=1).spec
    obs = torch.zeros(1, len(values), 3, spec.obs_dim)
    obs[0, :, :, :2] = torch.tensor(values).unsqueeze(1)
    flags = torch.zeros(1, len(values), 3, dtype=torch.bool)
    actions = torch.zeros(1, len(values), 3, 2) if kind == "continuous" else flags.long()
    return Batch(obs, actions, flags.float() + 99.0, obs, flags, flags)


def test_what_a_step_is_paid_by_hand() -> None:
    model = Fixed()
    model.spec = world("continuous", episodes=1).spec
    # Means 2 and 5, deviations 1 and 0: (2 - 3) / 2 + 1 - .5 * 1 / 2 = .25; (5 - 3) / 2 + 1 = 2.
    learned = LearnedReward(model, Statistics(3.0, 2.0), Mixing(caution=0.5))
    assert learned(rows([[1.0, 3.0], [5.0, 5.0]]))[0, :, 0].tolist() == [0.25, 2.0]
    # Widths of actions are 1, 2, 2: density 1/2 is uniform for the first agent, twice as likely for the others.
    liked = LearnedReward(model, Statistics(3.0, 2.0), Mixing(reference_weight=1.0), Likely(math.log(0.5)))
    assert liked(rows([[5.0, 5.0]]))[0, 0].tolist() == pytest.approx([2.0, 2 + math.log(2), 2 + math.log(2)])
    for weight, log_prob, bonus in ((100.0, -5.0, -10.0), (100.0, 5.0, 1.0), (0.0, -5.0, 0.0)):
        clipped = LearnedReward(model, Statistics(3.0, 2.0), Mixing(reference_weight=weight), Likely(log_prob))
        assert clipped(rows([[5.0, 5.0]]))[0, 0, 0].item() == 2.0 + bonus


@pytest.mark.parametrize("weight", [0.5, 1.0, 30.0])
def test_a_uniform_reference_pays_nothing_for_any_weight(weight) -> None:
    model = Fixed()
    model.spec = world("discrete", episodes=1).spec

    class Uniform(Likely):
        def log_prob(self, batch):
            counts = torch.tensor(model.spec.act_dims) if batch.avail_actions is None else batch.avail_actions.sum(-1)
            return -counts.float().log().expand(batch.rewards.shape)

    learned = LearnedReward(model, Statistics(0.0, 1.0), Mixing(reference_weight=weight), Uniform(0.0))
    batch = rows([[1.0, 1.0]], "discrete")
    allowed = torch.tensor([[[[True, True, False, False], [True, False, False, False], [True] * 4]]])
    for one in (batch, replace(batch, avail_actions=allowed)):
        torch.testing.assert_close(learned.bonus(one), torch.zeros(1, 1, 3))


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_recorded_rewards_are_standardised_over_all_of_the_data(place, made, kind) -> None:
    data = open_task(made[kind]).data
    model = load_reward(place / f"{kind}-r")
    statistics = measure(model, data, "cpu", "r")
    rewards = Rewards(data, replacement=LearnedReward(model, statistics, Mixing(offset=1.0)))
    learnt = rewards.recorded.rewards.double()
    assert float(learnt.mean()) == pytest.approx(1.0, abs=1e-5)
    assert float(learnt.std(correction=0)) == pytest.approx(1.0, abs=1e-5)
    # The same as asking the model itself, in eval mode, and asking again changes nothing.
    direct = torch.cat(
        [mean_and_spread(model.predict(part))[0][part.mask] for part in whole_episodes(data)]
    ).view_as(learnt)  # fmt: skip
    torch.testing.assert_close(learnt.float(), (direct - statistics.mean) / statistics.std + 1.0)
    again = Rewards(data, replacement=LearnedReward(model, statistics, Mixing(offset=1.0)))
    assert torch.equal(again.recorded.rewards, rewards.recorded.rewards)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_policy_reads_its_history_in_recorded_and_in_imagined_rows(place, made, kind) -> None:
    data = open_task(made[kind]).data
    reference = room.load_reference(str(place / f"{kind}-bc"), open_task(made[kind]))
    learned = LearnedReward(load_reward(place / f"{kind}-r"), Statistics(0.0, 1.0), Mixing(), reference)
    assert learned.window == 3
    # Of all recorded rows, with the windows that the buffer makes.
    buffer = TransitionBuffer(data, 3)
    flat = buffer.transitions(torch.arange(len(data)))
    logs = reference.log_prob(flat)
    expected = (logs - room._log_uniform(flat, data.spec)).clamp(-10, 1)
    whole = torch.cat([learned.bonus(part)[part.mask] for part in whole_episodes(data)]).view_as(expected)
    torch.testing.assert_close(whole, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_begin_within_an_episode_are_paid_as_the_whole_one_is(place, made, kind) -> None:
    data = open_task(made[kind]).data
    reference = room.load_reference(str(place / f"{kind}-bc"), open_task(made[kind]))
    model = load_reward(place / f"{kind}-gru")
    rewards = Rewards(data, replacement=LearnedReward(model, Statistics(0.0, 1.0), Mixing(), reference))
    assert rewards.window == int(data.lengths.max()), "no more than an episode has"
    buffer = TransitionBuffer(data, rewards.window)
    for episode in (2, 3):  # of six and of seven steps
        first = buffer.first[episode]
        starts = buffer.transitions(first.view(1) + 3)
        later = buffer.segments(first.view(1) + 3, 3)
        paid = rewards.of(replace(later, history=None), before=starts.history)
        torch.testing.assert_close(paid.rewards[0], rewards.recorded.rewards[first + 3 : first + 6])
        anew = rewards.of(replace(later, history=None))
        assert not torch.allclose(anew.rewards, paid.rewards)


@pytest.mark.parametrize("kind", KINDS)
def test_a_recurrent_model_reads_nothing_of_agents_that_had_not_come_yet(place, made, kind) -> None:
    data = open_task(made[kind]).data
    first = torch.cumsum(data.lengths, 0) - data.lengths
    mask, obs, actions = torch.ones_like(data.rewards, dtype=torch.bool), data.obs.clone(), data.actions.clone()
    for late in (0, 1):
        mask[first + late, 1] = False
        obs[first + torch.arange(len(first)) + late, 1] = 0
        actions[first + late, 1] = 0
    data = replace(data, mask=mask, obs=obs, actions=actions, ends_seen=None)
    model = load_reward(place / f"{kind}-gru")
    rewards = Rewards(data, replacement=LearnedReward(model, Statistics(0.0, 1.0), Mixing(), absences=True))
    buffer = TransitionBuffer(data, rewards.window)
    starts = buffer.transitions(buffer.first + 2)
    later = buffer.segments(buffer.first + 2, 2)
    paid = rewards.of(replace(later, history=None), before=starts.history).rewards
    torch.testing.assert_close(paid[:, 0], rewards.recorded.rewards[first + 2])
    torch.testing.assert_close(paid[:, 1], rewards.recorded.rewards[first + 3])


def test_windows_by_hand() -> None:
    before = torch.tensor([8.0, 9.0]).view(1, 1, 2, 1)
    steps = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    assert windows(before, steps).flatten(2).tolist() == [[[8.0, 9.0], [9.0, 1.0], [1.0, 2.0]]]


@pytest.mark.parametrize("algorithm", ["ma-iql", "td3-bc"])
def test_a_learner_never_sees_what_the_environment_paid(place, made, tmp_path, algorithm) -> None:
    data = world("continuous", episodes=20)
    fields = {"reward_model": str(place / "continuous-r"), "reference_policy": str(place / "continuous-bc")}
    fields |= {"clip_target": True, "reward_scale": "range", "steps": 20}
    ends = []
    for number, paid in enumerate((data.rewards, torch.randn_like(data.rewards) * 1e3)):
        file = saved(tmp_path, replace(data, rewards=paid), f"{number}.safetensors")
        ends.append(small_run(tmp_path / f"run{number}", file, algorithm, **fields).algorithm.state_dict())
    refuse_difference(*({k: v for k, v in end.items() if isinstance(v, torch.Tensor)} for end in ends))
    other = small_run(tmp_path / "true", saved(tmp_path, data, "true.safetensors"), algorithm, steps=20)
    key = next(name for name in ends[0] if name.startswith("critic"))
    assert not torch.equal(ends[0][key], other.algorithm.state_dict()[key])


def test_imagined_rewards_say_nothing_of_what_the_model_foresaw(place, made) -> None:
    data = open_task(made["continuous"]).data
    rewards = Rewards(
        data, replacement=LearnedReward(load_reward(place / "continuous-r"), Statistics(0.0, 1.0), Mixing())
    )
    batch = TransitionBuffer(data).segments(torch.tensor([0, 7]), 3)
    foreseen = [rewards.of(replace(batch, rewards=batch.rewards * factor)).rewards for factor in (1.0, -50.0)]
    assert torch.equal(*foreseen)


@pytest.fixture(scope="module")
def model(place, made) -> str:
    return str(small_fit(place / "model", made["continuous"]).folder)


@pytest.mark.long
@pytest.mark.parametrize("reward", ["r", "gru"])
def test_runs_on_recorded_and_on_imagined_rows_end_alike_after_a_kill(place, made, model, tmp_path, reward) -> None:
    data = made["continuous"]
    fields = {"algorithm": "td3-bc", "world_model": model, "real_fraction": 0.5, "horizon": 3, "steps": 40}
    fields |= {"reward_model": str(place / f"continuous-{reward}"), "reward_caution": 0.5, "rollouts": 8}
    fields |= {"reference_policy": str(place / "continuous-bc"), "refill_every": 5}
    small_run(tmp_path / "whole", data, **fields)
    start_and_kill(tmp_path / "killed", data, 33, **fields)
    frozen = (tmp_path / "killed" / "reward.json").read_text()
    running.resume(tmp_path / "killed")
    refuse_difference(ending(tmp_path / "whole"), ending(tmp_path / "killed"))
    assert (
        (tmp_path / "killed" / "reward.json").read_text() == frozen == (tmp_path / "whole" / "reward.json").read_text()
    )


def test_the_run_folder_says_which_reward_it_learnt_from_and_how_it_stands_beside_the_true_one(
    place, made, tmp_path
) -> None:
    fields = {"reward_model": str(place / "continuous-r"), "reference": str(place / "continuous-bc")}
    small_run(tmp_path / "run", made["continuous"], "iql", steps=5, **fields, reference_weight=0.5)
    said = json.loads((tmp_path / "run" / "reward.json").read_text())
    assert said["reference_policy"] == str(place / "continuous-bc") and said["reference_weight"] == 0.5
    assert {"mean", "std"} == set(said["standardised_by"]) and len(said["beside_the_true"]["agents"]) == 3
    assert -1 <= said["beside_the_true"]["team"]["rank"] <= 1


@pytest.mark.long
def test_a_reward_model_that_changed_since_is_refused(place, made, tmp_path) -> None:
    data = made["continuous"]
    comparisons = place / "continuous-c"
    small_reward(tmp_path / "r", data, comparisons)
    start_and_kill(tmp_path / "run", data, 33, algorithm="iql", reward_model=str(tmp_path / "r"))
    (tmp_path / "r").rename(tmp_path / "old")
    small_reward(tmp_path / "r", data, comparisons, seed=1)
    with pytest.raises(RunFolderError, match="reward model in .* is not the one that the run in .* began with"):
        running.resume(tmp_path / "run")


def test_training_with_a_model_no_better_than_chance_warns(made, tmp_path, capsys) -> None:
    data = made["continuous"]
    small_reward(tmp_path / "r", data, compare(tmp_path / "c", data, steepness=0.0), steps=10)
    small_run(tmp_path / "run", data, "iql", steps=2, reward_model=str(tmp_path / "r"))
    assert "warning: the reward model in" in (said := capsys.readouterr().err) and "no better than chance" in said


def test_a_model_or_a_reference_of_another_team_is_refused(place, made, tmp_path) -> None:
    for fields, what in (
        ({"reward_model": str(place / "discrete-r")}, "reward model"),
        (
            {"reward_model": str(place / "continuous-r"), "reference_policy": str(place / "discrete-bc")},
            "reference policy",
        ),
    ):
        with pytest.raises(DataError, match=f"The {what} in .* is of a team with .* discrete actions of .* continuous"):
            small_run(tmp_path / "run", made["continuous"], "iql", **fields)
        assert not (tmp_path / "run" / "config.json").exists()


def test_what_learnt_from_actions_on_another_scale_is_refused(place, made, tmp_path) -> None:
    data, reward = made["continuous"], str(place / "continuous-r")
    small_run(tmp_path / "wide", data, action_scale=2.0, steps=2)
    for fields, what in (
        ({"reward_model": reward, "action_scale": 2.0}, "reward model in .* learnt with --action-scale 1, .* not 2:"),
        (
            {"reward_model": reward, "reference_policy": str(tmp_path / "wide")},
            "reference policy in .*-scale 2, .* not 1:",
        ),
    ):
        with pytest.raises(ConfigError, match=what):
            small_run(tmp_path / "run", data, "iql", **fields)
        assert not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(ConfigError, match="The run in .*wide learnt with --action-scale 2"):
        small_run(tmp_path / "run", data, init=str(tmp_path / "wide"))


def test_of_other_data_another_scale_is_told_of(place, made, tmp_path, capsys) -> None:
    """One body's actions may stand in one file as fractions of their bound, in another as they are."""
    other = saved(tmp_path, world("continuous", episodes=20, seed=3), "other.safetensors")
    small_run(tmp_path / "run", other, "iql", steps=2, action_scale=2.0, reward_model=str(place / "continuous-r"))
    assert "learnt from other data with --action-scale 1, and here it is 2" in capsys.readouterr().err


def test_a_reference_that_cannot_tell_a_log_probability_is_refused(place, made, tmp_path) -> None:
    small_run(tmp_path / "td3", made["continuous"], "td3-bc", steps=2)
    with pytest.raises(DataError, match=r"\(TD3BC\) cannot tell how likely an action is .* such as a bc run"):
        fields = {"reward_model": str(place / "continuous-r"), "reference_policy": str(tmp_path / "td3")}
        small_run(tmp_path / "run", made["continuous"], "iql", **fields)


@pytest.mark.parametrize(
    ("algorithm", "fields", "message"),
    [
        ("iql", {"reference_policy": "x"}, "it needs a --reward-model"),
        ("iql", {"reward_model": "x", "reference_clip": (1.0, 2.0)}, "--reference-clip holds the least"),
        ("o-mapl", {"reward_model": "x", "preferences": "y"}, "learns from comparisons themselves"),
        ("iql", {"reward_model": "x", "reference": "a", "reference_policy": "b"}, "names a second reference policy"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(made, tmp_path, algorithm, fields, message) -> None:
    with pytest.raises(ConfigError, match=message):
        small_run(tmp_path / "run", made["continuous"], algorithm, **fields)


def test_what_is_no_reward_model_is_refused(place, made, tmp_path) -> None:
    for folder, message in (
        (tmp_path / "none", "holds no run"),
        (place / "continuous-bc", "holds a training run, not"),
    ):
        with pytest.raises(RunFolderError, match=message):
            small_run(tmp_path / "run", made["continuous"], "iql", reward_model=str(folder))


def test_reference_takes_a_run_folder_or_two_returns(tmp_path) -> None:
    for given in ("runs/bc", ["runs/bc"], tmp_path / "bc"):
        fields = resolve_run("iql", {"dataset": "x", "reference": given})
        assert "reference" not in fields and fields["reference_policy"].endswith("bc")
    numbers = resolve_run("iql", {"dataset": "x", "reference": [-30, -5]})
    assert RunConfig(algorithm="iql", dataset="x", reference=numbers["reference"]).reference == (-30.0, -5.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clone_tells_the_likelihood_that_it_maximises(place, made, kind) -> None:
    reference = room.load_reference(str(place / f"{kind}-bc"), open_task(made[kind]))
    batch = TransitionBuffer(open_task(made[kind]).data, 3).transitions(torch.arange(16))
    logs = reference.log_prob(batch)
    reference.requires_grad_(True)
    assert reference.update(batch)["loss/actor"].item() == pytest.approx(-logs.mean().item(), rel=1e-5)


def test_live_episodes_are_paid_by_the_model_and_each_begins_anew(place, made, tmp_path) -> None:
    config = RunConfig(
        algorithm="ma-ppo", dataset=made["continuous"], device="cpu", reward_model=str(place / "continuous-gru")
    )
    task = open_task(made["continuous"])
    learned = room.learned_reward(config, RunFolder(tmp_path), task, "cpu")
    kind = algorithms.get("ma-ppo")
    learner = kind(build(kind.Config, {"hidden": [8], "batch_size": 16, "window": 2}), task.spec)
    learner.place("cpu", 0)
    source = plan_source(config, RunFolder(tmp_path), task, Rewards(task.data, 1.0, learned), learner)()
    batch = source.sample(learner.needs)
    direct = learned(replace(batch, history=None, next_history=None))
    torch.testing.assert_close(batch.rewards, direct)
    assert not batch.rewards[~batch.mask].any() and bool(batch.rewards[batch.mask].any())


def test_where_agents_are_away_nothing_is_paid_and_nothing_measured(place, made) -> None:
    data = open_task(made["continuous"]).data
    mask = torch.ones_like(data.rewards, dtype=torch.bool)
    ends = torch.cumsum(data.lengths, 0) - 1
    mask[ends, 2] = False  # the third agent leaves before the last step
    model = load_reward(place / "continuous-r")
    away = replace(data, mask=mask, obs=data.obs.clone(), ends_seen=None)
    statistics = measure(model, away, "cpu", "r")
    paid = Rewards(away, replacement=LearnedReward(model, statistics, Mixing())).recorded.rewards
    assert not paid[~mask].any()
    assert float(paid[mask].double().mean()) == pytest.approx(1.0, abs=1e-5)
    assert statistics != measure(model, data, "cpu", "r")


def test_imagined_rows_are_paid_after_what_was_recorded_before_they_begin(place, made, tmp_path) -> None:
    data = made["continuous"]
    small_fit(tmp_path / "model", data)
    fields = {"algorithm": "td3-bc", "dataset": data, "device": "cpu", "world_model": str(tmp_path / "model")}
    fields |= {"reward_model": str(place / "continuous-gru"), "horizon": 3, "rollouts": 40, "real_fraction": 0.5}
    config, task = RunConfig(**fields), open_task(data)
    learned = room.learned_reward(config, RunFolder(tmp_path), task, "cpu")
    asked = []

    def noted(batch):
        asked.append(batch)
        return learned(batch)

    noted.window = learned.window
    rewards = Rewards(task.data, 1.0, noted)
    kind = algorithms.get("td3-bc")
    learner = kind(build(kind.Config, {"hidden": [8], "batch_size": 16}), task.spec)
    learner.place("cpu", 0)
    plan_source(config, RunFolder(tmp_path), task, rewards, learner)().sample(learner.needs)
    imagined = asked[-1]
    before = imagined.history[:, 0]
    assert before.shape[-2] == rewards.window == 8 and len(before) == 40
    begun = before.ne(0).flatten(1).any(1)
    assert begun.any() and not begun.all(), "some begin within an episode, and some where one begins"
    # The last pair before a row is the recorded one that led to what it sees first.
    every = TransitionBuffer(task.data, 8).transitions(torch.arange(len(task.data)))
    for row in begun.nonzero().flatten()[:5].tolist():
        at = (every.obs == imagined.obs[row, 0]).flatten(1).all(1).nonzero().item()
        assert torch.equal(every.history[at], before[row])
