"""Command `offline-marl prefs pairs`: pairs of segments that are worth a question."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offline_marl.core.config import ConfigError, build
from offline_marl.core.fields import Count, CountOrZero, InnerShare, Positive, Seed
from offline_marl.launch.cli.command import PROGRAM
from offline_marl.launch.cli.flags import ShareFlags, read

ABOUT = (
    "Asks about one round of pairs: equally long segments inside episodes, or whole episodes. Called again, it asks "
    "the next round, until the budget is spent; what all rounds share need not be said again. Segments are copied into "
    "FOLDER. A share of the episodes is held out, by which reward models are judged."
)
USAGE = "FOLDER --dataset ID [--budget N] [--length STEPS] [--select uniform|disagree|entropy --reward-model RUN] ..."
SHARED = ("budget", "length", "rounds", "schedule", "schedule_rate", "holdout", "seed")
"""Flags that a folder remembers from its first round on."""


class PairsFlags(ShareFlags):
    """Flags of `prefs pairs`."""

    folder: CliPositionalArg[Path]
    """Folder of comparisons; made by the first round."""
    dataset: str
    """Catalogue name, a body's with conf and view, or a file of our layout."""
    budget: Count = 1_000
    """Pairs of all rounds together."""
    length: CountOrZero = 0
    """Steps of a segment; 0 for whole episodes."""
    rounds: Count = 1
    """Rounds that share out the budget, one for each call."""
    schedule: Literal["linear", "exponential"] = "linear"
    """linear: as many pairs in each round; exponential: ever more."""
    schedule_rate: Positive = 0.1
    """Of the exponential schedule: the larger, the later pairs are asked about."""
    holdout: InnerShare = 0.2
    """Share of the episodes, and of each round's pairs, that no reward model learns from."""
    seed: Seed = 0
    """Decides which episodes are held out, and which pairs are drawn."""
    select: Literal["uniform", "disagree", "entropy"] = "uniform"
    """Chance, or where the members of a reward model disagree or are unsure, of ten times as many pairs, far apart."""
    reward_model: Path | None = None
    """Folder of the fitted reward model whose doubt chooses."""
    scale: Annotated[float | None, Field(gt=0)] = None
    """Difference of returns that teachers count as one; else that of expert and random play, or the data's range."""
    clip_actions: bool = False
    """Clip actions of the data that lie outside [-1, 1]."""
    action_scale: Positive = 1.0
    """Divides the recorded actions."""
    memory: Positive = 4.0
    """Gigabytes that the data may take; a larger set stays on disk."""
    journal: Literal["wal", "rollback"] | None = None
    """rollback: for a folder on a network file system, which is refused without it; remembered."""


def run(args: Sequence[str]) -> None:
    """Ask about a round of pairs.

    Raises:
        BadInputError: The data has no such pairs, the folder is of another plan, or its budget is spent.
    """
    given = read(PairsFlags, "prefs pairs", USAGE, ABOUT, args)
    if "dataset" not in given:
        raise ConfigError(f"prefs pairs needs --dataset ID: `{PROGRAM} data list` shows what there is.")

    from offline_marl.preferences.label_store import NAME
    from offline_marl.runs.combinations import refuse_other_scale
    from offline_marl.runs.folder import RewardFolder
    from offline_marl.runs.places import whole, with_share
    from offline_marl.tasks.data_tasks import open_task
    from offline_marl.training.preferences.asking import Plan, ask
    from offline_marl.training.preferences.folders import ComparisonFolder
    from offline_marl.training.preferences.loading import load_reward, refuse_other_team

    given = with_share({**given, "dataset": whole("dataset", str(given["dataset"]))})
    begun = (Path(str(given["folder"])) / NAME).exists()
    flags: PairsFlags = build(PairsFlags, given)
    if flags.reward_model is not None and flags.select == "uniform":
        raise ConfigError("--reward-model chooses pairs with --select disagree or entropy: give one of these too.")
    task = open_task(flags.dataset, flags.clip_actions, flags.memory, flags.action_scale)
    model = None if flags.reward_model is None else load_reward(flags.reward_model)
    if model is not None:
        refuse_other_team(model.spec, task.spec, str(flags.reward_model), task.id, "reward model")
        then = RewardFolder(str(flags.reward_model)).config()
        refuse_other_scale(f"reward model in {flags.reward_model}", then, flags.dataset, flags.action_scale)
    with ComparisonFolder(flags.folder, make=True, journal=flags.journal) as folder:
        stated = folder.store.facts() if begun else {}
        kept = {name: stated[name] for name in SHARED if name in stated and name not in given}
        plan = Plan(**{name: getattr(flags, name) for name in SHARED} | kept, scale=flags.scale or _scale(stated))
        made = ask(folder, task, plan, flags.select, model)
        total, measured = len(folder.store.pairs()), folder.scale
    name = shlex.quote(str(flags.folder))
    print(f"{'pairs':<12}{made.pairs:,} in round {made.session} of {plan.rounds}, {made.held_out:,} of them held out")
    print(f"{'in all':<12}{total:,} pairs; {made.left:,} of the budget are left")
    print(f"{'scale':<12}{measured.scale:.4g} is one for a teacher; segments return {measured.mean:.4g} in the mean")
    print(f"{'label them':<12}{PROGRAM} prefs simulate {name}, or prefs export {name} FILE.csv and prefs import")


def _scale(stated: dict[str, Any]) -> float | None:
    """The scale that a folder was begun with."""
    return float(stated["scale"]["scale"]) if "scale" in stated else None
