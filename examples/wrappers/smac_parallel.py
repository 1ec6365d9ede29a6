"""SMAC as a parallel environment: `--environment smac_parallel:make --env-settings map_name=3m`.

Needs the package `smac` and StarCraft II (SC2PATH), and this folder on PYTHONPATH. Dead units stay in the team, see
zeros and may only do nothing, as SMAC has it. The game draws its chances from the seed with which it is launched: it is
launched anew for each episode, unless `relaunch=false`, with which only a copy's first episode follows its seed.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box, Discrete
from smac.env import StarCraft2Env


class ParallelSMAC:
    """One game.

    Args:
        map_name: Of SMAC's maps.
        relaunch: Launch the game anew for each episode.
        settings: What StarCraft2Env is made with besides.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "smac"}
    render_mode = None

    def __init__(self, map_name: str = "3m", relaunch: bool = True, **settings: Any) -> None:
        self.relaunch, self._made = relaunch, {"map_name": map_name, **settings}
        self._env: Any = None
        info = self._launched(None).get_env_info()
        self.possible_agents = [f"agent_{number}" for number in range(info["n_agents"])]
        self.agents: list[str] = []
        self.max_cycles = int(info["episode_limit"])
        self._seen = Box(-np.inf, np.inf, (int(info["obs_shape"]),), np.float32)
        self._choices = Discrete(int(info["n_actions"]))
        self._began = False

    @property
    def unwrapped(self) -> ParallelSMAC:
        return self

    def observation_space(self, agent: str) -> Box:
        return self._seen

    def action_space(self, agent: str) -> Discrete:
        return self._choices

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        if seed is not None and (self.relaunch or not self._began):
            self._launched(seed)
        self._began, self.agents = True, list(self.possible_agents)
        self._env.reset()
        return self._obs(), self._masks({})

    def step(self, actions: dict[str, int]) -> tuple[dict[str, Any], ...]:
        names = self.possible_agents
        # What is not available ends the game with an error: the first that is stands for it.
        done = [
            actions[name] if allowed[actions[name]] else int(np.argmax(allowed))
            for name, allowed in zip(names, self._env.get_avail_actions(), strict=True)
        ]
        paid, over, info = self._env.step(done)
        late = bool(over and info.get("episode_limit", False))
        told = (
            self._obs(),
            dict.fromkeys(names, float(paid)),
            dict.fromkeys(names, bool(over) and not late),
            dict.fromkeys(names, late),
            self._masks({"won": float(info.get("battle_won", False))}),
        )
        self.agents = [] if over else list(names)
        return told

    def state(self) -> Any:
        return np.asarray(self._env.get_state(), np.float32)

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def _launched(self, seed: int | None) -> Any:
        self.close()
        self._env = StarCraft2Env(**self._made, **({} if seed is None else {"seed": seed % 2**31}))
        return self._env

    def _obs(self) -> dict[str, Any]:
        return dict(zip(self.possible_agents, np.asarray(self._env.get_obs(), np.float32), strict=True))

    def _masks(self, infos: dict[str, float]) -> dict[str, Any]:
        allowed = np.asarray(self._env.get_avail_actions(), np.int8)
        return {name: {"action_mask": allowed[i], **infos} for i, name in enumerate(self.possible_agents)}


def make(**settings: Any) -> ParallelSMAC:
    """A game by its settings."""
    return ParallelSMAC(**settings)
