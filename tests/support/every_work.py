"""All kinds of work: those of `works`, and runs that play, ask and imagine as they go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import works
from runs import ending
from works import DISK, MINIBATCH, PERIOD, PLAY, RECORDED, STEP, Case, Data, length, run_command, training

IN_ROUNDS = "offline_marl.training.sources.online_model:OnlineModelSource.sample"
PAID_REPLAY = "offline_marl.training.preferences.paid_sources:PaidReplay.sample"
PAID_EPISODES = "offline_marl.training.preferences.paid_sources:PaidEpisodes.sample"
PAIRS = "offline_marl.training.preferences.pair_source:PairSource.sample"
TOKENS = {
    "hidden": [8],
    "guess": [8],
    "tokens": 2,
    "levels": [4],
    "width": 8,
    "length": 3,
    "window": 1,
    "action_bins": 4,
    "reward_bins": 8,
    "batch_size": 4,
}
ROUNDS: dict[str, Any] = {
    "environment": "coordination",
    "warmup_steps": 20,
    "round_steps": 10,
    "tokenizer_updates": 2,
    "model_updates": 3,
    "imagined_updates": 4,
    "first_rounds": 2,
    "horizon": 3,
    "eval_every": 0,
}
TEACHER: dict[str, Any] = {
    "environment": "rendezvous",
    "teacher": "simulated",
    "queries": 40,
    "queries_per_round": 4,
    "query_length": 6,
    "query_recent": 20,
    "reward_fit": {"hidden": [8], "batch_size": 8, "members": 2},
    "reward_updates": 20,
    "explore_steps": 10,
    "eval_every": 0,
}
SEEDS = "train td3-bc --dataset {team} --seeds 0,1 --out {out}/s --hidden [8] --batch-size 8"
SEEDS += " --device cpu --checkpoint-every 10 --log-every 7 --eval-every 0 --final-episodes 2"


def learning_side_by_side(out: Path, data: Data) -> None:
    """Begin runs of two seeds, or go on with those that are unfinished."""
    out.mkdir(exist_ok=True)
    run_command(f"{SEEDS} --steps {length(data)}".format(out=out, **data))


def runs_of(out: Path) -> dict[str, Any]:
    """How each run in a folder ended."""
    return {path.name: ending(path) for path in sorted((out / "s").iterdir()) if path.is_dir()}


CASES: dict[str, Case] = {
    **works.CASES,
    "marie that plays": Case(
        training(None, algorithm="marie", fit=TOKENS, **ROUNDS),
        (STEP, PLAY, *DISK),
        period=PERIOD,
        sources=(IN_ROUNDS,),
    ),
    "moma-ppo that plays": Case(
        training(None, algorithm="moma-ppo", fit={"hidden": [8], "members": 3, "elites": 2, "batch_size": 8}, **ROUNDS),
        (MINIBATCH, PLAY, *DISK),
        period=PERIOD,
        sources=(IN_ROUNDS,),
    ),
    "pebble": Case(
        training(None, algorithm="masac", warmup_steps=20, reward_bonus=1.0, **TEACHER),
        (STEP, PLAY, *DISK),
        period=PERIOD,
        sources=(PAID_REPLAY,),
    ),
    "prefppo": Case(
        training(None, algorithm="ma-ppo", **TEACHER), (MINIBATCH, *DISK), period=PERIOD, sources=(PAID_EPISODES,)
    ),
    "learning from comparisons": Case(
        training("team", algorithm="o-mapl", preferences="{comparisons}"),
        (STEP, *DISK),
        period=PERIOD,
        sources=(PAIRS,),
    ),
    "a run on a learned reward": Case(
        training("team", algorithm="td3-bc", reward_model="{reward}"), (STEP, *DISK), period=PERIOD, sources=(RECORDED,)
    ),
    "a run of several seeds": Case(learning_side_by_side, (STEP, *DISK), runs_of, PERIOD),
}
