"""MARLHF's table: `python benchmarks/marlhf.py [--tasks NAME] [--seeds 0 1 ...] [--out DIR] [--plan] [--table]`.

On a tenth of the published data (3,840 episodes), whole episodes compared: on spread four mixes x reference weight {0,
1} x alpha {0, 1}, 5 seeds; on reference and tag the Diversified mix with the defaults and with each of them 0, 3 seeds.
Beside each mix stand `bc`, which is the reference policy, and the same learner on the true reward. Mix, comparisons,
reward model, reference policy and learner of every seed are its own; the collections are shared. It runs recipes:
stages that are there and cells that have a row are not made again, so that the command can be repeated, also elsewhere.
`--plan` says what is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rows import commit_of, missing, read, replace

from offline_marl.core.errors import BadInputError, WorkError
from offline_marl.launch.cli.recipe import perform
from offline_marl.launch.recipes.file import Recipe, make_recipe
from offline_marl.launch.recipes.run import run_recipe
from offline_marl.launch.recipes.standing import Standing, stand
from offline_marl.launch.sweeps.launch import resolve_execution
from offline_marl.runs.policies import SHIPPED, load_policy, shipped_names

RESULTS = Path(__file__).resolve().parent / "results" / "marlhf.csv"
SPREAD = "simple-spread"
TASKS = {SPREAD: range(5), "simple-reference": range(3), "simple-tag-prey": range(3)}
"""Seeds of each."""
WEIGHTS = {SPREAD: 1.0, "simple-reference": 1.0, "simple-tag-prey": 10.0}
"""Reference weights that the paper's scripts take."""
TIERS = ("expert", "good", "medium", "poor", "trivial")
MIXES = {
    "diversified": (960, 384, 384, 192, 960, 960),
    "mix-unilateral": (1920, 0, 0, 0, 960, 960),
    "mix-expert": (2880, 0, 0, 0, 960, 0),
    "pure-expert": (3840, 0, 0, 0, 0, 0),
}
"""Episodes of each tier, and of those in which one agent deviates."""
COMMON = {"device": "cpu", "eval_every": 0, "final_episodes": 256}
REFERENCE = COMMON | {"steps": 3000, "lr": 1e-3, "hidden": [128, 128], "share_parameters": True}
LEARNER = COMMON | {"steps": 1500, "gamma": 0.9, "lr": 1e-3, "target_every": 200}
KEY = ("task", "mix", "seed", "learner", "weight", "alpha")
FIELDS = (*KEY, "return", "normalized", "commit", "wall_s")


Stages = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One learner of the table: on learned rewards, on true ones, or bc."""

    task: str
    mix: str
    seed: int
    learner: str
    weight: float = 0.0
    alpha: float = 0.0

    @property
    def name(self) -> str:
        """Name of its last stage."""
        if self.learner == "learned":
            return self.called("vdn", f"weight{self.weight:g}", f"alpha{self.alpha:g}")
        return self.clone if self.learner == "bc" else self.called("vdn", "true")

    @property
    def clone(self) -> str:
        """Name of the stage of bc, which is the reference policy too."""
        return self.called("bc")

    def called(self, what: str, *more: str) -> str:
        """Name of a stage of its own mix and seed."""
        return "_".join([self.task, self.mix, f"seed{self.seed}", what, *more])

    def stages(self) -> Stages:
        """All that it needs, and it."""
        mix = self.called("mix")
        made = collections(self.task, self.mix) | {mix: mixture(MIXES[self.mix], self.task, self.seed)}
        data = {"dataset": f"{{{mix}}}", "seed": self.seed}
        if self.learner == "bc" or self.weight:
            made[self.clone] = stage("train", "bc", REFERENCE | data)
        if self.learner != "bc":
            paid: dict[str, Any] = {}
            if self.learner == "learned":
                made |= self.rewards(data)
                paid["reward_model"] = f"{{{self.called('reward', f'alpha{self.alpha:g}')}}}"
            if self.weight:
                paid |= {"reference_policy": f"{{{self.clone}}}", "reference_weight": self.weight}
            made[self.name] = stage("train", "vdn", LEARNER | data | paid)
        return made

    def rewards(self, data: dict[str, Any]) -> Stages:
        """The stages from pairs to a reward model."""
        pairs, labels = self.called("pairs"), self.called("labels")
        fit = data | {"preferences": f"{{{labels}}}", "hidden": [128], "alpha": self.alpha, "device": "cpu"}
        teacher = {"steepness": 5.0, "target": "agents", "seed": self.seed}
        return {
            # One scale of the task for all of its mixes: in each of them an answer is as noisy.
            pairs: stage("prefs pairs", None, data | {"budget": 4000, "scale": round(scale_of(self.task), 4)}),
            labels: stage("prefs simulate", f"{{{pairs}}}", teacher),
            self.called("reward", f"alpha{self.alpha:g}"): stage("fit-reward", "bradley-terry", fit),
        }


def stage(command: str, name: str | None, fields: dict[str, Any]) -> dict[str, Any]:
    """A stage of a recipe."""
    return {"command": command, "fields": fields} | ({} if name is None else {"name": name})


def collections(task: str, mix: str) -> Stages:
    """The stages of the tiers that a mix has episodes of, each with as many as any mix takes."""
    most = [max(counts) for counts in zip(*MIXES.values(), strict=True)]
    return recorded(task, [count if taken else 0 for count, taken in zip(most, MIXES[mix], strict=True)], task)


def recorded(task: str, counts: Sequence[int], prefix: str) -> Stages:
    """The stages `PREFIX_TIER` that record so many episodes of each tier, and those in which one agent deviates."""
    made: Stages = {}
    for number, (name, count) in enumerate(zip((*TIERS, "unilateral"), counts, strict=True)):
        fields: dict[str, Any] = {"noise": [0.05], "episodes": count, "seed": number}
        if name == "unilateral":
            fields |= {"who": ["tier:expert"], "deviate": "tier:deviator", "deviate_share": 1.0}
        else:
            fields |= {"who": [f"tier:{name}"]}
        if count:
            made[f"{prefix}_{name}"] = stage("collect", task, fields)
    return made


def mixture(counts: Sequence[int], prefix: str, seed: int) -> dict[str, Any]:
    """The stage of a mix of so many episodes of what `recorded` makes."""
    every = zip((*TIERS, "unilateral"), counts, strict=True)
    parts = [{"data": f"{{{prefix}_{name}}}", "episodes": count} for name, count in every if count]
    return stage("data mix", None, {"seed": seed, "parts": parts})


def told(task: str, tier: str) -> dict[str, Any]:
    """What the file of a tier's policy says of it."""
    return load_policy(SHIPPED / task / f"{tier}.safetensors").about


def scale_of(task: str) -> float:
    """Difference between the expert tier and uniform play."""
    about = told(task, "expert")
    return float(about["expert_return"] - about["random_return"])


def recipe_of(wanted: Iterable[Cell]) -> Recipe:
    """One recipe of several cells, which share stages."""
    stages: Stages = {}
    for cell in wanted:
        stages |= cell.stages()
    return make_recipe({"stages": stages})


def cells(tasks: list[str], seeds: list[int] | None) -> Iterator[Cell]:
    """All of the table, seed by seed, of the tasks whose tiers ship."""
    for task in (task for task in tasks if "expert" in shipped_names(task)):
        for seed in TASKS[task] if seeds is None else seeds:
            for mix in MIXES if task == SPREAD else ("diversified",):
                yield Cell(task, mix, seed, "bc")
                yield Cell(task, mix, seed, "true")
                full = WEIGHTS[task]
                pairs = [(0.0, 0.0), (0.0, 1.0), (full, 0.0), (full, 1.0)]
                for weight, alpha in pairs if task == SPREAD else pairs[1:]:
                    yield Cell(task, mix, seed, "learned", weight, alpha)


def unfinished(wanted: Iterable[Cell]) -> list[Cell]:
    """Cells that have no committed row."""
    keyed = [(*(getattr(cell, name) for name in KEY), cell) for cell in wanted]
    return [cell for *_, cell in missing(RESULTS, KEY, keyed)]


def row_of(cell: Cell, found: Standing) -> dict[str, Any]:
    """A row of the table; scores are between the trivial and the expert tier."""
    done = json.loads((found.made / "DONE").read_text())
    low, high = (told(cell.task, tier)["return"] for tier in ("trivial", "expert"))
    score = done["score"]["return"]
    scores = {"return": round(score, 4), "normalized": round(100 * (score - low) / (high - low), 2)}
    return {**vars(cell), **scores, "commit": commit_of(found.made), "wall_s": done["wall_s"]}


def standing(wanted: Sequence[Cell], out: Path) -> dict[Cell, Standing]:
    """Where the last stages of cells stand."""
    recipe = recipe_of(wanted)
    found = stand(recipe, out, recipe.ordered(), {})
    return {cell: found[cell.name] for cell in wanted}


def write_rows(wanted: Sequence[Cell], out: Path) -> None:
    """Write the rows of those cells that are there."""
    rows = [row_of(cell, one) for cell, one in standing(wanted, out).items() if one.done]
    replace(RESULTS, rows, FIELDS, KEY)


COLUMNS = {
    "bc": ("bc", False, 0.0),
    **{
        f"{'reference' if paid else 'no reference'}, alpha {alpha:g}": ("learned", paid, alpha)
        for paid in (False, True)
        for alpha in (0.0, 1.0)
    },
    "true reward": ("true", False, 0.0),
}


def print_table() -> None:
    """Score between tiers, mean and deviation over seeds, and the mean return in brackets."""
    print("| task | mix | seeds | " + " | ".join(COLUMNS) + " |")
    print("|---|---|---|" + "---|" * len(COLUMNS))
    rows = read(RESULTS)
    for task, mix in ((task, mix) for task in TASKS for mix in MIXES):
        of_mix = [row for row in rows if (row["task"], row["mix"]) == (task, mix)]
        if not of_mix:
            continue
        texts = []
        for column in COLUMNS.values():
            found = [row for row in of_mix if (row["learner"], float(row["weight"]) > 0, float(row["alpha"])) == column]
            scores, returns = ([float(row[name]) for row in found] for name in ("normalized", "return"))
            spread = f" ± {np.std(scores, ddof=1):.0f}" if len(scores) > 1 else ""
            texts.append(f"{np.mean(scores):.0f}{spread} ({np.mean(returns):.1f})" if found else "")
        seeds = len({row["seed"] for row in of_mix})
        print(f"| {task} | {mix} | {seeds} | " + " | ".join(texts) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of each task's own")
    parser.add_argument("--out", type=Path, default=Path("recipes/marlhf"), help="folder of the stages")
    parser.add_argument("--executor", choices=("debug", "local", "slurm"), default="debug", help="who runs and fits")
    parser.add_argument("--profile", type=Path, help="what a job asks for")
    parser.add_argument("--parallel", type=int, help="runs at once at most, with local and slurm")
    parser.add_argument("--plan", action="store_true", help="say which cells are there, and do no more")
    parser.add_argument("--table", action="store_true", help="print the committed rows as a table, and do no more")
    options = parser.parse_args()
    if options.table:
        return print_table()
    out, known = options.out.absolute(), list(cells(options.tasks, options.seeds))
    wanted = unfinished(known)
    for task in set(options.tasks) - {cell.task for cell in known}:
        print(f"warning: no policies of tiers ship for {task} yet: it is left out.", file=sys.stderr)
    if options.plan:
        for cell in known:
            print("todo" if cell in wanted else "done", cell.name)
        return None
    execution = resolve_execution(options.executor, options.profile, options.parallel)
    for task, seed, mix in dict.fromkeys((cell.task, cell.seed, cell.mix) for cell in wanted):
        some = [cell for cell in wanted if (cell.task, cell.seed, cell.mix) == (task, seed, mix)]
        try:
            run_recipe(recipe_of(some), out, perform, execution)
        except (BadInputError, WorkError) as error:
            print(f"error: {task}, {mix}, seed {seed}: {error}", file=sys.stderr)
        write_rows(some, out)
    print_table()
    return None


if __name__ == "__main__":
    main()
