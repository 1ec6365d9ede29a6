"""Rewards that a fitted model pays in place of the environment's, less what it doubts, plus a reference policy's bonus.

    r = (mean - mu) / sigma + offset - kappa spread / sigma + clip(beta (log pi(a) - log u(a)))

Mean and spread are over members; mu and sigma are the mean's over the whole training data, and are frozen with the run.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from offline_marl.core.acting.history import pairs, windows
from offline_marl.core.axes import PerAgent
from offline_marl.core.small_files import read_table
from offline_marl.core.types import Batch, DataError, History, Spec
from offline_marl.datasets.base import Dataset
from offline_marl.losses.preferences import log_ratio_bonus, log_uniform_box, log_uniform_choices
from offline_marl.preferences.reward_model import RewardModel, mean_and_spread
from offline_marl.runs.combinations import refuse_other_scale
from offline_marl.runs.config import LearnFlags, RunConfig
from offline_marl.runs.folder import Folder, RewardFolder, RunFolder, RunFolderError, write_json
from offline_marl.runs.loading import load
from offline_marl.runs.pins import version_of
from offline_marl.tasks.data_tasks import Task
from offline_marl.training.models.report import plain, read_report, verdict
from offline_marl.training.preferences.loading import load_reward, refuse_other_team
from offline_marl.training.preferences.report import both_correlations
from offline_marl.training.rewards import Rewards, whole_episodes

FILE = "reward.json"
"""In a run folder: which reward it learns from, frozen, and how that stands beside the environment's."""
ROWS_AT_ONCE = 1 << 15
"""Steps of agents that a reference policy reads together."""


@runtime_checkable
class ReferencePolicy(Protocol):
    """A policy that can tell how likely it would have done what was done."""

    spec: Spec
    window: int

    def log_prob(self, batch: Batch) -> PerAgent:
        """Log-probability, or density, of each agent's action."""
        ...


@dataclass(frozen=True)
class Statistics:
    """Statistics by which the learnt reward is standardised."""

    mean: float
    std: float


@dataclass(frozen=True)
class Mixing:
    """Weights of what a step is paid."""

    offset: float = 1.0
    """Mean of the standardised reward."""
    caution: float = 0.0
    """kappa."""
    reference_weight: float = 1.0
    """beta."""
    reference_clip: tuple[float, float] = (-10.0, 1.0)


class LearnedReward:
    """A `Replacement` of the environment's rewards.

    Args:
        model: Of a finished fit.
        statistics: Frozen; measured by `measure` where a run begins.
        mixing: Weights.
        reference: Pays what it holds likely.
        device: Where both compute.
        absences: Whether agents come late or leave in the data, so that pairs of a history may be of who was away.
    """

    def __init__(
        self,
        model: RewardModel,
        statistics: Statistics,
        mixing: Mixing,
        reference: ReferencePolicy | None = None,
        device: torch.device | str = "cpu",
        absences: bool = False,
    ) -> None:
        self.model, self.statistics, self.mixing = model.to(device), statistics, mixing
        self.reference, self.absences = reference, absences
        self.device = torch.device(device)
        if isinstance(reference, torch.nn.Module):
            reference.to(device)
        self.window = max(model.window, 0 if reference is None else reference.window)
        """Past pairs that are read where a segment begins within an episode."""

    def __call__(self, batch: Batch) -> PerAgent:
        """Rewards of segments `[row, time]`; see `Replacement`."""
        batch = batch.to(self.device)
        mean, spread = mean_and_spread(self.model.predict(batch, self._before_model(batch)))
        paid = (mean - self.statistics.mean - self.mixing.caution * spread) / self.statistics.std + self.mixing.offset
        if self.reference is not None and self.mixing.reference_weight:
            paid = paid + self.bonus(batch)
        return paid if batch.mask is None else paid.masked_fill(~batch.mask, 0.0)

    def _before_model(self, batch: Batch) -> History | None:
        """Pairs before the first step, zeros also where an agent was away.

        There histories hold that it saw nothing and did the first choice, whose one-hot row is no zeros.
        """
        before, spec = _before(batch, self.model.window), self.model.spec
        if before is None or not self.absences or not spec.discrete:
            return before
        obs, done = torch.split(before, [spec.obs_dim, spec.act_dim], dim=-1)
        away = (obs == 0).all(-1) & (done[..., 0] == 1)
        return before.masked_fill(away.unsqueeze(-1), 0.0)

    @torch.no_grad()
    def bonus(self, batch: Batch) -> PerAgent:
        """What the reference policy's liking of each action is paid, clipped."""
        assert self.reference is not None
        rows, time, agents = batch.rewards.shape
        several = max(ROWS_AT_ONCE // (time * agents * max(self.reference.window, 1)), 1)
        low, high = self.mixing.reference_clip
        made = []
        for part in torch.split(torch.arange(rows, device=batch.obs.device), several):
            piece = batch.map(lambda value, part=part: value[part])
            logs, uniform = self.reference.log_prob(self._with_history(piece)), _log_uniform(piece, self.model.spec)
            made.append(log_ratio_bonus(logs, uniform, self.mixing.reference_weight, low, high))
        return torch.cat(made)

    def _with_history(self, batch: Batch) -> Batch:
        """The rows with as many past pairs as the reference policy reads."""
        assert self.reference is not None
        window, spec = self.reference.window, self.model.spec
        if not window:
            return replace(batch, history=None, next_history=None)
        before = _before(batch, window)
        if before is None:
            before = batch.obs.new_zeros(len(batch), spec.n_agents, window, spec.step_dim)
        seen = windows(before, pairs(batch.obs, batch.actions, spec))
        return replace(batch, history=seen, next_history=None)


def _before(batch: Batch, window: int) -> History | None:
    """Pairs before the first step, zeros where there were none; None where none are known."""
    if batch.history is None or not window:
        return None
    known = batch.history[:, 0]
    lacking = window - known.shape[-2]
    return known[..., -window:, :] if lacking <= 0 else torch.nn.functional.pad(known, (0, 0, lacking, 0))


def _log_uniform(batch: Batch, spec: Spec) -> PerAgent:
    if not spec.discrete:
        dims = torch.tensor(spec.act_dims, device=batch.obs.device, dtype=batch.obs.dtype)
        return log_uniform_box(dims).expand(batch.rewards.shape)
    if batch.avail_actions is not None:
        return log_uniform_choices(batch.avail_actions.sum(-1).to(batch.obs.dtype))
    counts = torch.tensor(spec.act_dims, device=batch.obs.device, dtype=batch.obs.dtype)
    return log_uniform_choices(counts).expand(batch.rewards.shape)


def measure(model: RewardModel, data: Dataset, device: torch.device | str, place: str) -> Statistics:
    """Mean and deviation of the members' mean over every step and agent of the data.

    Raises:
        DataError: It pays every step alike.
    """
    model.to(device)
    total = squares = count = 0.0
    for segments in whole_episodes(data):
        batch = segments.to(device)
        assert batch.mask is not None
        values = model.predict(batch).mean(0)[batch.mask].double()
        total, squares = total + float(values.sum()), squares + float(values.square().sum())
        count += len(values)
    mean = total / count
    std = math.sqrt(max(squares / count - mean**2, 0.0))
    if not std > 1e-6 * max(abs(mean), 1e-6):
        raise DataError(
            f"The reward model in {place} pays every step of the data alike: there is nothing to learn from it."
        )
    return Statistics(mean, std)


def learned_reward(
    config: RunConfig, folder: Folder[RunConfig], task: Task, device: torch.device | str
) -> LearnedReward | None:
    """What a run is paid instead of the environment's rewards; None where its settings name no reward model.

    Raises:
        BadInputError: It is not finished, is of another team or of actions on another scale, or is not the one that the
            run began with; or the reference policy cannot tell log-probabilities.
    """
    if config.reward_model is None:
        return None
    place = config.reward_model
    model = load_reward(place)
    refuse_other_team(model.spec, task.spec, place, task.id, "reward model")
    reference = None if config.reference_policy is None else load_reference(config.reference_policy, task)
    mixing = Mixing(config.reward_offset, config.reward_caution, config.reference_weight, config.reference_clip)
    known = read_frozen(folder)
    version, of_reference = version_of(model), None if reference is None else digest_of(reference)
    if known is not None:
        if (known["version"], known["reference"]) != (version, of_reference):
            what = f"reward model in {place}"
            if known["version"] == version:
                what = f"reference policy in {config.reference_policy}"
            raise RunFolderError(f"The {what} is not the one that the run in {folder.path} began with.")
        statistics = Statistics(**known["standardised_by"])
    else:
        # A run that began before this was refused still goes on.
        _refuse_other_scale(config, place)
        statistics = measure(model, task.data, device, place)
        report = read_report(Path(place))
        if report is None or not report["trusted"]:
            print(f"warning: the reward model in {place} is {verdict(report)}.", file=sys.stderr)
    return LearnedReward(model, statistics, mixing, reference, device, task.data.mask is not None)


def _refuse_other_scale(config: RunConfig, place: str) -> None:
    learnt: dict[str, LearnFlags] = {f"reward model in {place}": RewardFolder(place).config()}
    if config.reference_policy is not None:
        learnt[f"reference policy in {config.reference_policy}"] = RunFolder(config.reference_policy).config()
    for what, then in learnt.items():
        refuse_other_scale(what, then, config.dataset, config.action_scale)


def load_reference(run: str, task: Task) -> ReferencePolicy:
    """The reference policy of a finished or running run.

    Raises:
        DataError: It is of another team, or cannot tell log-probabilities.
        RunFolderError: The folder holds no run or no checkpoint.
    """
    policy = load(run)
    refuse_other_team(policy.spec, task.spec, run, task.id, "reference policy")
    if not isinstance(policy, ReferencePolicy):
        raise DataError(
            f"The run in {run} ({type(policy).__name__}) cannot tell how likely an action is (log_prob): the reference "
            "policy should be one that can, such as a bc run."
        )
    policy.requires_grad_(False)
    return policy


def digest_of(policy: ReferencePolicy) -> str:
    """Checksum of a policy's weights."""
    digest = hashlib.sha256()
    assert isinstance(policy, torch.nn.Module)
    for name, value in sorted(policy.named_parameters()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_frozen(folder: Folder[RunConfig]) -> dict[str, Any] | None:
    """What a run froze of its reward when it began; None where it has not begun.

    Raises:
        RunFolderError: The file is damaged.
    """
    path = folder.path / FILE
    if not path.is_file():
        return None
    try:
        known = read_table(path)
        return {**known, "standardised_by": dict(known["standardised_by"]), "version": str(known["version"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path} was damaged or edited: {error}.") from None


def freeze(folder: Folder[RunConfig], config: RunConfig, rewards: Rewards, data: Dataset) -> None:
    """Write down which reward a run learns from, once, and how it stands beside the environment's."""
    learned = rewards.replacement
    if not isinstance(learned, LearnedReward) or (folder.path / FILE).is_file():
        return
    reference = learned.reference
    content: Mapping[str, Any] = {
        "reward_model": config.reward_model,
        "version": version_of(learned.model),
        "standardised_by": {"mean": learned.statistics.mean, "std": learned.statistics.std},
        "offset": learned.mixing.offset,
        "caution": learned.mixing.caution,
        "reference_policy": config.reference_policy,
        "reference": None if reference is None else digest_of(reference),
        "reference_weight": learned.mixing.reference_weight,
        "beside_the_true": plain(beside_the_true(rewards, data)),
    }
    write_json(folder.path / FILE, content)


def beside_the_true(rewards: Rewards, data: Dataset) -> dict[str, Any]:
    """Correlations of the recorded returns that are learnt from with the environment's, for diagnosis alone."""
    learnt, true = (_returns(part) for part in (rewards.recorded, data))
    return {
        "team": both_correlations(learnt.sum(-1), true.sum(-1)),
        "agents": [both_correlations(learnt[:, i], true[:, i]) for i in range(learnt.shape[-1])],
    }


def _returns(data: Dataset) -> Tensor:
    sums = torch.zeros(len(data.lengths), data.spec.n_agents, dtype=torch.float64)
    episodes = torch.repeat_interleave(torch.arange(len(data.lengths)), data.lengths)
    return sums.index_add_(0, episodes, data.rewards.double())
