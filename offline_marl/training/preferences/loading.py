"""A reward model as its fit left it, from its folder alone."""

from __future__ import annotations

from pathlib import Path

import torch

from offline_marl.core.config import build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import DataError, Spec
from offline_marl.preferences import registry
from offline_marl.preferences.reward_model import RewardModel
from offline_marl.runs.folder import RewardFolder, RunFolderError, naming_plugins, newest_state, restoring
from offline_marl.tasks.data_tasks import describe_team, team_of


def load_reward(path: str | Path) -> RewardModel:
    """The reward model of a finished fit, on the CPU.

    Raises:
        RunFolderError: The folder holds no reward model, one whose fit has not ended, or edited settings.
    """
    folder = RewardFolder(path)
    config = folder.unedited_config()
    if not folder.done:
        raise RunFolderError(
            f"The fit of the reward model in {folder.path} has not ended: `offline-marl resume {folder.path}` ends it."
        )
    widths, state = folder.versions().get("spec"), newest_state(folder)
    if widths is None or state is None:
        raise RunFolderError(f"{folder.path} lacks {folder.versions_file.name if widths is None else 'a checkpoint'}.")
    spec = Spec.from_plain(widths)
    with naming_plugins(folder):
        kind: type[RewardModel] = registry.get(config.reward)
    with seeded_globally(config.seed, "initialisation"):
        still = torch.zeros(spec.n_agents, spec.obs_dim)
        model = kind(build(kind.Config, config.settings), spec, still, still + 1)
    with restoring(folder.path):
        model.load_state_dict(state["reward_model"])
    return model.requires_grad_(False).eval()


def refuse_other_team(spec: Spec, data_spec: Spec, place: str | Path, task: str, what: str) -> None:
    """Refuse a model of another team.

    Raises:
        DataError: Says which both are of.
    """
    if team_of(spec) != team_of(data_spec):
        raise DataError(
            f"The {what} in {place} is of a team with {describe_team(spec)}, {task} holds one with "
            f"{describe_team(data_spec)}."
        )
