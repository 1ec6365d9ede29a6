"""Program that steps SMAX of jaxmarl for another process, which runs it by an interpreter that has jaxmarl.

It imports nothing of this package. A message is a line of JSON, and behind it the bytes of the arrays that the line
names with kind and shape; nothing that is read is code. The first line that it writes says what the scenario is.
Copies are stepped in blocks of one size, so that an episode does not depend on how many run beside it.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import metadata
from typing import IO, Any

import numpy as np

BLOCK = 16
"""Copies of one compiled step."""


def write_message(stream: IO[bytes], line: dict[str, Any], **arrays: Any) -> None:
    """One message: the line, then the arrays' bytes."""
    told = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    stream.write(json.dumps({**line, "arrays": told}).encode() + b"\n")
    for array in arrays.values():
        stream.write(np.ascontiguousarray(array).tobytes())
    stream.flush()


def read_message(stream: IO[bytes], longest: int = 1 << 30) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The next message; None where there is none any more.

    Args:
        stream: Where it comes from.
        longest: Bytes that an array may have.

    Raises:
        ValueError: It is none.
    """
    head = stream.readline(1 << 20)
    if not head.endswith(b"\n"):
        return None
    line, arrays = json.loads(head), {}
    for name, (kind, shape) in line.pop("arrays").items():
        dtype = np.dtype(str(kind))
        size = dtype.itemsize * int(np.prod(shape, dtype=np.float64))
        if dtype.hasobject or not 0 <= size <= longest:
            raise ValueError("an array of objects, or too large a one")
        data = stream.read(size)
        if len(data) < size:
            return None
        arrays[name] = np.frombuffer(data, dtype).reshape(shape).copy()
    return line, arrays


class World:
    """Blocks of copies of a scenario against the heuristic enemy.

    Args:
        scenario: Its name, such as 3m.
        settings: What the environment is made with besides.
    """

    def __init__(self, scenario: str, settings: dict[str, Any]) -> None:
        import jax
        from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario

        self.jax, self.env = jax, HeuristicEnemySMAX(scenario=map_name_to_scenario(scenario), **settings)
        self.names, self.allies = self.env.agents, self.env.num_allies
        self._reset = jax.jit(jax.vmap(self._begin))
        self._step = jax.jit(jax.vmap(self._advance))
        self.blocks: list[Any] = []

    def describe(self) -> dict[str, Any]:
        """Sizes of the task, and versions of all that its episodes depend on."""
        env, first = self.env, self.names[0]
        obs, state = env.observation_space(first).shape[0], self.jax.eval_shape(env.reset, self.jax.random.PRNGKey(0))
        versions = {name: metadata.version(name) for name in ("jaxmarl", "jax", "jaxlib")}
        return {
            "agents": len(self.names),
            "obs": obs,
            "choices": int(env.action_space(first).n),
            "state": int(state[0]["world_state"].shape[0]),
            "max_steps": int(env.max_steps),
            "versions": versions,
        }

    def reset(self, seeds: list[int]) -> dict[str, Any]:
        """Begin an episode for each seed."""
        padded = list(seeds) + [0] * (-len(seeds) % BLOCK)
        keys = [self._key(seed) for seed in padded]
        self.blocks, told = [], []
        for first in range(0, len(padded), BLOCK):
            carry, seen = self._reset(self.jax.numpy.stack(keys[first : first + BLOCK]))
            self.blocks.append(carry)
            told.append(seen)
        return _joined(told, len(seeds))

    def step(self, actions: Any) -> dict[str, Any]:
        """Let all agents act in every copy."""
        rows = len(actions)
        padded = np.concatenate([actions, np.zeros((-rows % BLOCK, actions.shape[1]), actions.dtype)])
        told = []
        for number, first in enumerate(range(0, len(padded), BLOCK)):
            self.blocks[number], seen = self._step(self.blocks[number], padded[first : first + BLOCK])
            told.append(seen)
        return _joined(told, rows)

    def _key(self, seed: int) -> Any:
        random = self.jax.random
        return random.fold_in(random.PRNGKey(seed & 0x7FFFFFFF), seed >> 31 & 0x7FFFFFFF)

    def _begin(self, key: Any) -> tuple[Any, dict[str, Any]]:
        key, own = self.jax.random.split(key)
        obs, state = self.env.reset(own)
        return (key, state), self._seen(obs, state)

    def _advance(self, carry: Any, actions: Any) -> tuple[Any, dict[str, Any]]:
        key, state = carry
        key, own = self.jax.random.split(key)
        obs, state, rewards, done, _ = self.env.step_env(
            own, state, {name: actions[number] for number, name in enumerate(self.names)}
        )
        alive = state.state.unit_alive
        lost, won = ~alive[: self.allies].any(), ~alive[self.allies :].any()
        told = {"rewards": rewards[self.names[0]], "over": lost | won, "won": won & ~lost, "done": done["__all__"]}
        return (key, state), {**self._seen(obs, state), **told}

    def _seen(self, obs: Any, state: Any) -> dict[str, Any]:
        stack, avail = self.jax.numpy.stack, self.env.get_avail_actions(state)
        return {
            "obs": stack([obs[name] for name in self.names]),
            "avail": stack([avail[name] for name in self.names]) > 0,
            "state": obs["world_state"],
        }


def _joined(parts: list[dict[str, Any]], rows: int) -> dict[str, Any]:
    """Arrays of all blocks, without the padding, of the kinds that the other side expects."""
    whole = {name: np.concatenate([np.asarray(part[name]) for part in parts])[:rows] for name in parts[0]}
    floats = {"obs", "state", "rewards"}
    return {name: value.astype(np.float32 if name in floats else np.bool_) for name, value in whole.items()}


def serve(world: Any, asked: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until nobody asks any more."""
    write_message(answers, world.describe())
    while (message := read_message(asked)) is not None:
        line, arrays = message
        told = world.reset(line["seeds"]) if line["do"] == "reset" else world.step(arrays["actions"])
        write_message(answers, {}, **told)


def private_streams() -> tuple[IO[bytes], IO[bytes]]:
    """This process's input and output for messages alone; whatever else is printed goes to standard error."""
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return asked, answers


def main() -> None:
    """Serve the scenario that the first word names, made with the JSON of the second."""
    asked, answers = private_streams()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        world = World(sys.argv[1], json.loads(sys.argv[2]))
    except Exception as error:  # whatever it is, the other side says it in one sentence
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return write_message(answers, {"error": reason[:300]})
    serve(world, asked, answers)


if __name__ == "__main__":
    main()
