"""Train, score, load and act, all from Python: `python examples/train_api.py [--steps N] [--out DIR]`."""

from __future__ import annotations

import argparse

import torch

import offline_marl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="reacher-scripted-clockwise-v0_2x1notip_0")
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--out", default="runs/train_api")
    options = parser.parse_args()

    # Fields of the run (steps, seed, device ...) and of the algorithm (expectile, hidden ...) stand side by side.
    result = offline_marl.train(
        "ma-iql",
        options.dataset,
        out=options.out,
        steps=options.steps,
        final_episodes=options.episodes,
        expectile=0.8,
    )
    print(result.score)

    # Later, or on another machine: the trained team, and actions for one observation of each agent.
    team = offline_marl.load(options.out)
    data = offline_marl.load_dataset(options.dataset)
    first = data.episode(0)
    print("data did  ", first.actions[0].flatten().tolist())
    with torch.no_grad():
        print("team does ", team.act(first.obs[0]).flatten().tolist())


if __name__ == "__main__":
    main()
