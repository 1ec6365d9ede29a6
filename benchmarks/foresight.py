"""Token world models beside an ensemble: `python benchmarks/foresight.py [--seeds 0 1] [--sets ...] [--table]`.

Records what is missing of the data (a cheetah's tiers by a short run of `masac`; a game whose choices are not always
allowed, ladder.py), fits every model with `fit-model`, and writes a row a fit to results/foresight.csv as it ends:
errors after k steps of its own predictions on held-out episodes, shares of recorded numbers inside intervals, the rank
correlation of spread and error, what tokenizers lose, and processor time. What was stopped goes on, and what has a row
is not fitted again. `--table` prints the rows as docs/marie.md shows them, `--page` writes them there and draws its
picture.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rows
import torch
from timing import time_calls

from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.runs.software import describe_software, short_commit
from offline_marl.training.models.fit import resume_fit
from offline_marl.training.models.foresight import evenly
from offline_marl.training.models.rows import source_for
from offline_marl.worldmodels.base import WorldModel

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "foresight.csv"
PICTURE = HERE.parent / "docs" / "pictures" / "foresight.png"
PAGE = HERE.parent / "docs" / "marie.md"
STEPS, TOKENIZER_STEPS = 4_000, 2_000
"""Updates of a fit, and those of them that are the tokenizer's and the guess's."""
AFTER = (1, 2, 5, 10, 25)
"""Steps of a model's own predictions after which its error is written."""
IMAGINED, HORIZON = 256, 10
"""Rows and steps of the imagination that is timed."""
TOKENS = {"tokenizer_steps": TOKENIZER_STEPS, "lr": 2e-3}
MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "ensemble": ("ensemble", {}),
    "tokens": ("marie", TOKENS),
    "tokens at once": ("marie", {**TOKENS, "decoding": "parallel"}),
    "bins at once": ("marie", {**TOKENS, "decoding": "parallel", "tokenizer": "bins", "vocabulary": 32}),
    "tokens of observations": ("marie", {**TOKENS, "tokens_of": "observations"}),
}
"""Kinds and what of their settings is not the default."""
COMMON = tuple(name for name in MODELS if name != "bins at once")
SETS: dict[str, tuple[str, ...]] = {"reacher": tuple(MODELS), "ladder": COMMON, "halfcheetah": COMMON}
"""Sets, each with the models that are fitted to it."""
FIELDS = (
    *("set", "model", "seed", "updates"),
    *(f"{what}_{after}" for what in ("error", "still") for after in AFTER),
    *("reward_error", "inside_50", "inside_90", "rewards_inside_90", "correlation", "choices_1", "choices_10"),
    *("coded", "codes_in_use", "fixed_points"),
    *("update_ms", "fit_s", "imagined_ms", "commit"),
)
SHOWN = {"reacher": "reacher mix", "ladder": "ladder", "halfcheetah": "halfcheetah 2x3, tiers"}


def recorded(name: str, out: Path) -> str | None:
    """The data set's id, after what is missing of it was recorded; None if that failed."""
    if name == "reacher":
        return "reacher-scripted-mix-v0_2x1notip_0"
    file, log = out / "data" / f"{name}.safetensors", out / f"{name}.log"
    id_ = str(file) if name == "ladder" else f"{file}_2x3_full"
    if file.exists():
        return id_
    if name == "ladder":
        words = ["collect", "benchmarks.ladder:parallel_env", "--who", "random", "--episodes", "1000"]
        return id_ if rows.command([*words, "--score-episodes", "0", "--out", str(file)], log) else None
    return id_ if recorded_tiers(file, out, log) else None


def recorded_tiers(file: Path, out: Path, log: Path) -> bool:
    """Episodes of three checkpoints of one run, in one file."""
    run, stem = out / "masac", file.with_name("tier")
    fresh = ["train", "masac", "--environment", "halfcheetah_2x3_full", "--environment-steps", "35000"]
    fresh += ["--warmup-steps", "5000", "--critic-lr", "1e-3", "--policy-every", "2", "--no-standardize-obs"]
    fresh += ["--checkpoint-every", "2500", "--keep-checkpoints", "0", "--eval-every", "0", "--eval-episodes", "5"]
    if not rows.trained(run, fresh):
        return False
    fractions = "poor=0.3,medium=0.6,best=best"
    words = ["collect", "halfcheetah", "--tiers", str(run), "--tier-fractions", fractions, "--tier-tolerance", "0.25"]
    words += ["--score-episodes", "5", "--episodes", "20", "--noise", "0.1", "--out", str(stem)]
    tiers = [stem.with_name(f"tier-{name}.safetensors") for name in ("poor", "medium", "best")]
    if not all(tier.exists() for tier in tiers) and not rows.command(words, log):
        return False
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "halfcheetah.toml"
        recipe.write_text("".join(f'[[parts]]\ndata = "{tier.absolute()}"\n' for tier in tiers))
        return rows.command(["data", "mix", str(recipe), str(file)], log)


def fitted(name: str, model: str, seed: int, out: Path) -> dict[str, Any] | None:
    """The row of a fit, which is made first where it is missing; None if it failed."""
    data = recorded(name, out)
    if data is None:
        return None
    kind, settings = MODELS[model]
    folder = out / f"{name}_{model.replace(' ', '-')}_{seed}"
    words = ["fit-model", kind, "--dataset", data, "--seed", str(seed), "--steps", str(STEPS), "--eval-every", "250"]
    words += [word for key, value in settings.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    return measured(name, model, seed, folder) if rows.trained(folder, words) else None


def measured(name: str, model: str, seed: int, folder: Path) -> dict[str, Any]:
    """What is written of a finished fit."""
    fit = resume_fit(folder)
    report = json.loads((folder / "report.json").read_text())
    far, inside, steps = report["open_loop"], report["calibration"], fit.steps
    told: dict[str, Any] = {"set": name, "model": model, "seed": seed, "updates": steps}
    for after in AFTER:
        there = after <= len(far["steps"])
        told[f"error_{after}"] = short(far["error"][after - 1]) if there else ""
        told[f"still_{after}"] = short(far["nothing_changes"][after - 1]) if there else ""
    at = {share: inside["nominal"].index(share) for share in (0.5, 0.9)}
    told["reward_error"] = short(report["rewards"]["error"])
    told["inside_50"], told["inside_90"] = (short(value_at(inside["next_obs"], at[share])) for share in at)
    told["rewards_inside_90"] = short(value_at(inside["rewards"], at[0.9]))
    spread = report["spread"]
    best = "token_information" if "token_information" in spread else "covariance_norm"
    told["correlation"] = short(spread[best]["correlation_one_step"])
    right = report.get("choices", {}).get("right", [])
    told["choices_1"], told["choices_10"] = (short(value_at(right, after - 1)) for after in (1, 10))
    tokenizer = report.get("of_kind", {}).get("tokenizer", {})
    for column, told_as in (("coded", "error"), ("codes_in_use", "in_use"), ("fixed_points", "fixed_points")):
        told[column] = short(tokenizer.get(told_as))
    updates, seconds = times(fit.model, fit.held_out, steps)
    told["update_ms"], told["fit_s"] = short(1e3 * updates), short(seconds)
    told["imagined_ms"] = short(1e3 * time_calls(imagination(fit.model, fit.held_out), 5.0) / HORIZON)
    return told | {"commit": short_commit(describe_software().get("commit") or "")}


def times(model: WorldModel, buffer: TransitionBuffer, steps: int) -> tuple[float, float]:
    """Processor seconds of one update of the model itself, and of all updates of the fit."""
    source = source_for(model, buffer, torch.Generator().manual_seed(0))
    state, total, seconds = copy.deepcopy(model.state_dict()), 0.0, 0.0
    first = getattr(model, "tokenizer_steps", 0)
    for phase, count in zip(model.phases[::-1], (steps - first, first), strict=False):

        def update(phase: Any = phase) -> None:
            model.learn(phase, source.sample(model.needs))

        seconds = time_calls(update, 4.0)
        total += count * seconds
        model.load_state_dict(state)
        if phase == "model":
            own = seconds
    return own, total


def imagination(model: WorldModel, buffer: TransitionBuffer) -> Callable[[], None]:
    """A call that lets a model run on its own predictions under recorded actions."""
    cuts = buffer.segments(evenly(torch.arange(len(buffer)), IMAGINED), HORIZON)

    @torch.no_grad()
    def imagine() -> None:
        carry = model.begin(cuts.map(lambda value: value[:, 0]))
        for time in range(HORIZON):
            _, carry = model.step(carry, cuts.actions[:, time])

    return imagine


def value_at(values: Sequence[float | None] | None, place: int) -> float | None:
    return None if values is None or place >= len(values) else values[place]


def short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def means(found: Sequence[Mapping[str, str]], field: str) -> float | None:
    """Mean over seeds; None where nothing is told."""
    told = [float(row[field]) for row in found if row[field]]
    return sum(told) / len(told) if told else None


def print_table() -> None:
    """A table for each set: errors after k steps, calibration, cost; means over seeds."""
    every = rows.read(RESULTS)
    for name, models in SETS.items():
        of_set = [row for row in every if row["set"] == name]
        if not of_set:
            continue
        print(f"\n| {SHOWN[name]} | " + " | ".join(str(after) for after in AFTER), end=" | ")
        print("rewards | inside 50 % | inside 90 % | correlation | choices | fit | imagined step |")
        print("|---|" + "---|" * (len(AFTER) + 7))
        for model in models:
            found = [row for row in of_set if row["model"] == model]
            if not found:
                continue
            cells = [short(means(found, f"error_{after}")) for after in AFTER]
            cells += [short(means(found, name)) for name in ("reward_error", "inside_50", "inside_90", "correlation")]
            cells += ["/".join(filter(None, (short(means(found, f"choices_{after}")) for after in (1, 10))))]
            cells += [f"{means(found, 'fit_s') or 0:.0f} s", f"{means(found, 'imagined_ms') or 0:.1f} ms"]
            print(f"| {model} ({len(found)}) | " + " | ".join(cells) + " |")
        print("| nothing changes | " + " | ".join(short(means(of_set, f"still_{after}")) for after in AFTER), end="")
        print(" |" + " |" * 7)


def write_page() -> None:
    """Put the tables where the page shows them."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        print_table()
    rows.put_table(PAGE, "foresight", told.getvalue())


def draw() -> None:
    """Error against steps, a panel for each set, and inside it what an imagined step costs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    every = rows.read(RESULTS)
    names = [name for name in SETS if any(row["set"] == name for row in every)]
    figure, axes = plt.subplots(1, len(names), figsize=(4.2 * len(names), 3.6), squeeze=False, layout="constrained")
    for panel, name in zip(axes[0], names, strict=True):
        of_set = [row for row in every if row["set"] == name]
        for number, model in enumerate(MODELS):
            found = [row for row in of_set if row["model"] == model]
            if not found:
                continue
            label = f"{model}, {means(found, 'imagined_ms') or 0:.0f} ms a step"
            curve = [means(found, f"error_{after}") or np.nan for after in AFTER]
            panel.plot(AFTER, curve, marker="o", markersize=3, color=f"C{number}", label=label)
        still = [means(of_set, f"still_{after}") or np.nan for after in AFTER]
        panel.plot(AFTER, still, color="gray", linestyle=":", label="nothing changes")
        panel.set(xscale="log", yscale="log", xlabel="steps of its own predictions", title=SHOWN[name])
        panel.set_xticks(AFTER, [str(after) for after in AFTER], minor=False)
        panel.minorticks_off()
        panel.legend(fontsize=6.5)
    axes[0][0].set_ylabel("error, deviations of the data")
    figure.savefig(PICTURE, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="which data")
    parser.add_argument("--out", type=Path, default=Path("runs/foresight"), help="folder of data and fits")
    parser.add_argument("--table", action="store_true", help="fit nothing: print the tables of the committed CSV")
    parser.add_argument("--page", action="store_true", help="write the tables into the page, and draw its picture")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # Seed by seed, so that a call that is stopped leaves whole tables.
    cells = [(name, model, seed) for seed in options.seeds for name in options.sets for model in SETS[name]]
    plan = rows.missing(RESULTS, ("set", "model", "seed"), cells)
    for name, model, seed in () if options.table else plan:
        told = fitted(name, model, seed, options.out)
        if told is not None:
            rows.replace(RESULTS, [told], FIELDS, ("set", "model", "seed"))
            print(f"{name}, {model}, seed {seed}", file=sys.stderr)
    print_table()
    if options.page:
        write_page()
        draw()


if __name__ == "__main__":
    main()
