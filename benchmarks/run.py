"""Train presets over seeds and write one row per run: `python benchmarks/run.py [PRESET ...] [--seeds 0 1 2]`.

PRESET is `<algorithm>/<name>`, a file below offline_marl/presets, or the path of a file in a folder of its
algorithm's name, or a pattern such as 'bc/*_2x1notip_0'; without any, all model-free presets of the embedded
Reacher sets run. Finished runs are not run again and stopped ones are resumed, so the command can be repeated until
the table is whole; rows of other runs stay.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import rows

from offline_marl.runs.software import short_commit

HERE = Path(__file__).resolve().parent
PRESETS = HERE.parent / "offline_marl" / "presets"
MODEL_FREE = ("bc", "cql", "iql", "ma_iql", "omar", "td3_bc")
FIELDS = [
    *("algo", "dataset", "seed", "step", "return", "return_low", "return_high"),
    *("normalized_return", "normalized_low", "normalized_high", "agreement", "episodes", "commit", "wall_s"),
    *("data_return", "data_normalized"),
]


def find_presets(names: list[str]) -> list[Path]:
    if not names:
        return sorted(path for name in MODEL_FREE for path in PRESETS.glob(f"{name}/*reacher-scripted-*.toml"))
    found = []
    for name in names:
        matching = sorted(PRESETS.glob(f"{name}.toml")) if "*" in name else []
        if matching:
            found += matching
            continue
        options = [Path(name), PRESETS / name, PRESETS / f"{name}.toml"]
        path = next((option for option in options if option.is_file()), None)
        if path is None:
            sys.exit(f"error: There is no preset {name} (looked for {', '.join(map(str, options))}).")
        found.append(path)
    return found


def train(preset: Path, seed: int, folder: Path) -> None:
    """One run in a process of its own, on one thread."""
    program = [sys.executable, "-m", "offline_marl"]
    if (folder / "config.json").exists():
        command = [*program, "resume", str(folder)]
    else:
        algorithm = preset.parent.name.replace("_", "-")
        command = [*program, "train", algorithm, "--config", str(preset), "--seed", str(seed), "--out", str(folder)]
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=environment, check=False)
    print(f"{'done' if done.returncode == 0 else 'FAILED'}  {folder}", file=sys.stderr)


def learner(config: dict[str, Any]) -> str:
    """The algorithm, and what of its settings makes it another one in the literature."""
    settings = config["settings"]
    variant = [settings["critic"]] if settings.get("critic") == "centralised" else []
    variant += [settings["cql_actions"]] if settings.get("cql_actions", "own") != "own" else []
    variant += [config["world_model"]] if config.get("world_model") in {"oracle", "marie"} else []
    return " ".join([config["algorithm"], *variant])


def collect(folder: Path) -> dict[str, object] | None:
    if not (folder / "DONE").exists():
        return None
    done, config, versions = (
        json.loads((folder / name).read_text()) for name in ("DONE", "config.json", "versions.json")
    )
    return {
        "algo": learner(config),
        "dataset": config["dataset"],
        "seed": config["seed"],
        "step": done["steps"],
        **{key: round(value, 4) for key, value in done["score"].items()},
        "commit": short_commit(versions.get("commit", "")),
        "wall_s": done["wall_s"],
        "data_return": rounded(done["data"].get("return")),
        "data_normalized": rounded(done["data"].get("normalized_return")),
    }


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("presets", nargs="*", metavar="PRESET")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "reacher_scripted.csv")
    options = parser.parse_args()
    presets = find_presets(options.presets)
    places = {
        (preset, seed): options.out / preset.parent.name / f"{preset.stem}_seed{seed}"
        for seed in options.seeds
        for preset in presets
    }
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda key: train(*key, places[key]), places))
    finished = [row for row in map(collect, places.values()) if row is not None]
    rows.replace(options.results, finished, FIELDS, ("dataset", "algo", "seed"))
    print(f"{len(finished)} of {len(places)} runs finished; rows in {options.results}")
    if len(finished) < len(places):
        sys.exit(1)


if __name__ == "__main__":
    main()
