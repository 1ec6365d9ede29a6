"""What reward models learn of a simulated teacher: `python benchmarks/reward_models.py [--cases NAME ...] [--table]`.

Each case is a recipe: data, pairs of whole episodes or of segments, a teacher of steepness 5 on the scale of what is
compared, a fit. Of the held-out episodes a row of results/reward_models.csv says the share of what can be told,
(expected accuracy - 1/2) / (Bayes rate - 1/2), and how the model ranks them beside their true returns. `spread x5` is
MARLHF's Diversified mix of simple-spread at half the published size; of it OMIGA learns, too, on the learned and on the
true reward. `, soft` has a teacher for whom the range of that mix counts as one, as published, instead of the
difference of the expert and random play, a sixth of it. What is there is not made again: the command can be repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marlhf import COMMON, MIXES, SPREAD, Stages, mixture, recorded, scale_of, stage, told
from rows import commit_of, read, replace

from offline_marl.core.errors import BadInputError, WorkError
from offline_marl.launch.cli.recipe import perform
from offline_marl.launch.recipes.file import make_recipe
from offline_marl.launch.recipes.run import run_recipe
from offline_marl.launch.recipes.standing import Standing, stand
from offline_marl.launch.sweeps.launch import resolve_execution

RESULTS = Path(__file__).resolve().parent / "results" / "reward_models.csv"
FIELDS = (
    "case",
    "seed",
    "episodes",
    "pairs",
    "labels",
    "expected",
    "bayes",
    "share",
    "rank",
    "learned",
    "true",
    "commit",
)
RENDEZVOUS = {"who": ["left=.35", "right=.35", "random=.3"], "noise": [0.0, 0.3, 0.8, 1.5], "episodes": 1000}
SMALL = {
    "hidden": [128, 128],
    "alpha": 0.0,
    "members": 1,
    "lr": 2e-3,
    "cosine_steps": 3000,
    "steps": 3000,
    "batch_size": 256,
    "eval_every": 200,
    "patience": 20,
}
DEEP = SMALL | {"hidden": [128, 128, 128], "layer_norm": True, "batch_size": 768, "cosine_steps": 4000, "steps": 4000}
LONG = {"cosine_steps": 12_000, "steps": 12_000, "eval_every": 500}
JOINT = DEEP | LONG | {"joint": True}
LEARNER = COMMON | {"steps": 3000}


@dataclass(frozen=True)
class Case:
    """Data, comparisons and fit of a row."""

    pairs: int
    fit: dict[str, Any] = field(default_factory=dict)
    length: int | None = None
    """Steps of what is compared; None for whole episodes."""
    scale: int = 0
    """Diversified episodes of simple-spread in tenths of the published number; 0 for rendezvous."""
    one: float | None = None
    """Difference of episodes' returns that the teacher counts as one; None for that of the expert and random play."""
    learners: bool = False

    def data(self, seed: int) -> Stages:
        """The stages of the data, the last of them `mix`."""
        if not self.scale:
            return {"mix": stage("collect", "rendezvous", RENDEZVOUS | {"seed": seed})}
        counts, prefix = [self.scale * count for count in MIXES["diversified"]], f"x{self.scale}"
        return recorded(SPREAD, counts, prefix) | {f"{prefix}_mix": mixture(counts, prefix, seed)}

    def stages(self, name: str, seed: int) -> Stages:
        """All stages; `NAME_reward` is the fit, `NAME_learned` and `NAME_true` the learners."""
        made = self.data(seed)
        data = {"dataset": f"{{{[*made][-1]}}}", "seed": seed}
        spread = bool(self.scale)
        asked: dict[str, Any] = {"budget": self.pairs}
        if spread:  # its episodes are all of 25 steps
            asked["scale"] = round((self.one or scale_of(SPREAD)) * (self.length or 25) / 25, 4)
        if self.length:
            asked["length"] = self.length
        teacher = {"steepness": 5.0, "target": "agents" if spread else "team", "seed": seed}
        pairs, labels, reward = (f"{name}_{what}" for what in ("pairs", "labels", "reward"))
        made[pairs] = stage("prefs pairs", None, data | asked)
        made[labels] = stage("prefs simulate", f"{{{pairs}}}", teacher)
        fit = self.fit | {"preferences": f"{{{labels}}}", "device": "cpu"}
        made[reward] = stage("fit-reward", "bradley-terry", data | fit)
        if self.learners:
            learner = LEARNER | data
            made[f"{name}_learned"] = stage("train", "omiga", learner | {"reward_model": f"{{{reward}}}"})
            made[f"{name}_true"] = stage("train", "omiga", learner)
        return made


CASES = {
    "rendezvous own 1000": Case(1000),
    "rendezvous joint 1000": Case(1000, {"joint": True}),
    "rendezvous joint 2500": Case(2500, {"joint": True}),
    "spread x1 20000": Case(20_000, SMALL, scale=1),
    "spread x5 60000 of 5": Case(60_000, DEEP, length=5, scale=5, learners=True),
    "spread x5 300000 of 5, joint": Case(300_000, JOINT, length=5, scale=5, learners=True),
    "spread x5 150000 of 5, soft": Case(
        150_000, DEEP | {"batch_size": 1024}, length=5, scale=5, one=65.0, learners=True
    ),
}


def row_of(name: str, seed: int, found: dict[str, Standing], key: str) -> dict[str, Any]:
    """The row of a case whose fit is there; learners are scored between the trivial and the expert tier."""
    fit = found[f"{key}_reward"].made
    report = json.loads((fit / "report.json").read_text())
    accuracy, truth = report["accuracy"], report["true_returns"]
    row = {
        "case": name,
        "seed": seed,
        "episodes": truth["episodes"],
        "pairs": CASES[name].pairs,
        "labels": accuracy["labels"],
        "expected": round(accuracy["expected"], 4),
        "bayes": round(accuracy["bayes"], 4),
        "share": round(accuracy["share_of_bayes"], 3),
        "rank": round(truth["team"]["rank"], 3),
        "commit": commit_of(fit),
    }
    low, high = (told(SPREAD, tier)["return"] for tier in ("trivial", "expert"))
    for what in ("learned", "true"):
        end = found.get(f"{key}_{what}")
        if end is not None and end.done:
            score = json.loads((end.made / "DONE").read_text())["score"]["return"]
            row[what] = round(100 * (score - low) / (high - low), 1)
    return row


def finished(name: str, seed: int) -> bool:
    """Whether the row of a case is committed, with its learners where it has them."""
    rows = [row for row in read(RESULTS) if (row["case"], row["seed"]) == (name, str(seed))]
    return any(row["share"] and (not CASES[name].learners or (row["learned"] and row["true"])) for row in rows)


def print_table() -> None:
    """The committed rows, one a line."""
    print("| case | seed | held-out episodes | share | rank | OMIGA on it | OMIGA on true rewards |")
    print("|---|---|---|---|---|---|---|")
    for row in read(RESULTS):
        shown = (row[name] for name in ("case", "seed", "episodes", "share", "rank", "learned", "true"))
        print("| " + " | ".join(shown) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("recipes/reward_models"), help="folder of the stages")
    parser.add_argument("--table", action="store_true", help="make nothing: print the committed rows")
    options = parser.parse_args()
    for name in () if options.table else options.cases:
        for seed in options.seeds:
            if finished(name, seed):
                continue
            key, out = name.replace(",", "").replace(" ", "_"), options.out.absolute()
            recipe = make_recipe({"stages": CASES[name].stages(key, seed)})
            try:
                run_recipe(recipe, out, perform, resolve_execution("debug", None, None))
            except (BadInputError, WorkError) as error:
                print(f"error: {name}, seed {seed}: {error}", file=sys.stderr)
            found = stand(recipe, out, recipe.ordered(), {})
            if found[f"{key}_reward"].done:
                replace(RESULTS, [row_of(name, seed, found, key)], FIELDS, ("case", "seed"))
    print_table()


if __name__ == "__main__":
    main()
