"""A policy in a loop of one's own: observations in the form that an environment gives, actions in the form it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offline_marl.core.acting.history import begin_memory
from offline_marl.core.acting.inputs import tensor_of
from offline_marl.core.types import DataError, Policy, Spec

OBSERVATION, MASK = "observation", "action_mask"
"""Keys of PettingZoo's observations that come with available actions."""


class TeamActor:
    """A team's policy in a loop of one's own, with its memory from one `reset` to the next.

    Observations are taken as a dict by agent, a list with a row for each agent, of its true width, or an array or
    tensor `[agent, obs]` padded to the widest; a team of one also takes its row alone. Rows with one more axis before
    them are episodes side by side. Actions come back in the same form and of each agent's true width. Agents that a
    dict leaves out are absent: they see zeros.

    Args:
        policy: Acts for the team.
        spec: The team.
        device: Where the policy is.
        agents: Names of the agents, in the order of the data's agent axis; without them agent_0, agent_1 ...
        action_spaces: Boxes by agent, or a function of the agent, or the box of all: actions in [-1, 1] are stretched
            to their bounds, and shaped as they are.
        explore: Draw actions instead of taking the likeliest.

    Raises:
        DataError: There are other names than agents, or a box has no bounds or another width.
    """

    def __init__(
        self,
        policy: Policy,
        spec: Spec,
        device: torch.device | str = "cpu",
        *,
        agents: Sequence[str] | None = None,
        action_spaces: Any = None,
        explore: bool = False,
    ) -> None:
        self.policy, self.spec, self.device, self.explore = policy, spec, device, explore
        self.agents = tuple(spec.agents if agents is None else agents)
        if len(set(self.agents)) != spec.n_agents or len(self.agents) != spec.n_agents:
            raise DataError(f"agents should be {spec.n_agents} different names, and is {list(self.agents)}.")
        self._bounds, self._shapes = _boxes(action_spaces, self.agents, spec)
        self.reset()

    def reset(self, copies: int | None = None) -> None:
        """Forget the episode: the next call begins one, or `copies` side by side."""
        self._copies = copies
        self._memory: Any = None
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, obs: Any, *, avail_actions: Any = None, rewards: Any = None, explore: bool | None = None) -> Any:
        """Each agent's action.

        Args:
            obs: What the agents see, in one of the forms above; `{"observation": ..., "action_mask": ...}` in place of
                a row brings its available actions.
            avail_actions: Allowed choices, in the form of `obs`; all are allowed where nothing is said.
            rewards: What the step before earned, for policies that remember it: a number, by agent, or [copies, agent].
            explore: In place of the actor's own.

        Raises:
            DataError: Rows of another width, unknown agents, numbers that are not finite, or another count of
                episodes than before.
        """
        form = _Form(obs, self.agents, self.spec, self._copies)
        if self._memory is not None and form.copies != self._copies:
            raise DataError(f"{form.copies} episodes were seen where {self._copies} are under way: call reset() first.")
        if self._memory is None:
            if self._copies not in (None, form.copies):
                raise DataError(f"{form.copies} episodes were seen, but reset() was told of {self._copies}.")
            self._copies = form.copies
            self._memory = begin_memory(self.policy, self.spec, form.copies, self.device)
        elif self._last is not None:
            self._memory.remember(*self._last, self._earned(rewards))
        avail = form.avail(avail_actions)
        actions = self.policy.act(
            form.obs.to(self.device),
            **self._memory.read(),
            avail_actions=None if avail is None else avail.to(self.device),
            explore=self.explore if explore is None else explore,
        )
        self._last = form.obs.to(self.device), form.done(actions)
        return form.back(self._stretched(actions).cpu(), self._shapes)

    act = __call__

    def _earned(self, rewards: Any) -> Tensor:
        if isinstance(rewards, Mapping):
            rewards = [rewards.get(agent, 0.0) for agent in self.agents]
        earned = torch.as_tensor(np.asarray(0.0 if rewards is None else rewards, np.float32)).to(self.device)
        if earned.shape == (self._copies,) and self._copies != self.spec.n_agents:
            earned = earned.unsqueeze(-1)
        try:
            return earned.expand(self._copies or 1, self.spec.n_agents)
        except RuntimeError:
            raise DataError(f"rewards of shape {tuple(earned.shape)} are not [copies, agent].") from None

    def _stretched(self, actions: Tensor) -> Tensor:
        if self._bounds is None:
            return actions
        low, high = (bound.to(actions.device) for bound in self._bounds)
        return torch.minimum(torch.maximum(low + (actions.clamp(-1, 1) + 1) / 2 * (high - low), low), high)


class _Form:
    """Observations of a caller as padded tensors, and the way back to the caller's form."""

    def __init__(self, given: Any, agents: tuple[str, ...], spec: Spec, copies: int | None) -> None:
        self.agents, self.spec, self.given = agents, spec, given
        self._masks: dict[int, Any] = {}
        rows = self._rows(given, copies)
        tables = {agent: self._table("obs", agent, row, spec.obs_dims[agent]) for agent, row in rows.items()}
        counts = {len(table) for table, _ in tables.values()}
        if len(counts) > 1 or len({single for _, single in tables.values()}) > 1:
            raise DataError("Some agents see more episodes side by side than others.")
        self.single = next(single for _, single in tables.values()) if tables else True
        self.copies = counts.pop() if counts else copies or 1
        self.obs = torch.zeros(self.copies, spec.n_agents, spec.obs_dim)
        for agent, (table, _) in tables.items():
            self.obs[:, agent, : table.shape[-1]] = table
        self.rows = rows

    def done(self, actions: Tensor) -> Tensor:
        """What was done: who is absent does nothing, as in recorded data, and remembers that."""
        absent = [agent for agent in range(self.spec.n_agents) if agent not in self.rows]
        if not absent:
            return actions
        actions = actions.clone()
        actions[:, absent] = 0
        return actions

    def _rows(self, given: Any, copies: int | None) -> dict[int, Any]:
        """What each agent that is there sees, by its number."""
        spec = self.spec
        self.kind = "list"
        if isinstance(given, Mapping) and not (spec.n_agents == 1 and OBSERVATION in given):
            self.kind = "dict"
            unknown = [str(name) for name in given if name not in self.agents]
            if unknown:
                raise DataError(
                    f"{unknown[0]} is none of the team's agents ({', '.join(self.agents)}): give their names in the "
                    "data's order, actor(agents=[...])."
                )
            rows = {self.agents.index(name): row for name, row in given.items()}
        elif isinstance(given, list | tuple) and not (spec.n_agents == 1 and _is_row(given)):
            if len(given) != spec.n_agents:
                raise DataError(f"obs has {len(given)} rows, and the team {spec.n_agents} agents.")
            rows = dict(enumerate(given))
        elif isinstance(given, Tensor | np.ndarray):
            rows = self._columns(given, copies)
        elif spec.n_agents == 1:
            self.kind, rows = "row", {0: given}
        else:
            raise DataError(
                f"obs should be a dict by agent, a list of rows or an array, and is {type(given).__name__}."
            )
        for agent, row in list(rows.items()):
            if isinstance(row, Mapping):
                if OBSERVATION not in row:
                    raise DataError(f"What {self.agents[agent]} sees is a dict without '{OBSERVATION}'.")
                self._masks[agent] = row.get(MASK)
                rows[agent] = row[OBSERVATION]
        return rows

    def _columns(self, given: Any, copies: int | None) -> dict[int, Any]:
        """Rows of one array of all agents, or of the only one."""
        spec = self.spec
        alone = spec.n_agents == 1 and (given.ndim == 1 or (given.ndim == 2 and len(given) == copies))
        if alone or (spec.n_agents == 1 and given.ndim == 2 and len(given) > 1):
            self.kind = "row"
            return {0: given}
        if given.ndim not in (2, 3) or tuple(given.shape[-2:]) != (spec.n_agents, spec.obs_dim):
            raise DataError(
                f"obs of shape {tuple(given.shape)} should be [agent, obs] or [copies, agent, obs], here "
                f"[..., {spec.n_agents}, {spec.obs_dim}]."
            )
        self.kind = "array"
        return {agent: given[..., agent, : spec.obs_dims[agent]] for agent in range(spec.n_agents)}

    def _table(self, name: str, agent: int, row: Any, width: int) -> tuple[Tensor, bool]:
        """One agent's row or rows as [copies, width], and whether it was one row."""
        tensor = tensor_of(name, row, f"of {self.agents[agent]}")
        single = tensor.numel() == width and (tensor.dim() <= 1 or tensor.shape[-1] != width)
        if single:
            tensor = tensor.reshape(1, width)
        elif tensor.dim() < 2 or tensor[0].numel() != width:
            raise DataError(
                f"{name} of {self.agents[agent]} has the shape {tuple(tensor.shape)}, and should be {width} "
                f"numbers, or [copies, {width}]."
            )
        return tensor.reshape(len(tensor), width), single

    def avail(self, given: Any) -> Tensor | None:
        """Available actions as [copies, agent, choice]; absent agents may do anything."""
        spec = self.spec
        if not spec.discrete:
            return None
        masks = dict(self._masks)
        if isinstance(given, Mapping):
            masks |= {self.agents.index(name): mask for name, mask in given.items() if name in self.agents}
        elif isinstance(given, Tensor | np.ndarray) and given.ndim > 1 and given.shape[-2] == spec.n_agents:
            masks |= {agent: given[..., agent, : spec.act_dims[agent]] for agent in range(spec.n_agents)}
        elif given is not None:
            masks |= dict(enumerate([given] if self.kind == "row" else given))
        if all(mask is None for mask in masks.values()):
            return None
        table = spec.present("act").expand(self.copies, -1, -1).clone()
        for agent, mask in masks.items():
            if mask is not None and agent in self.rows:
                allowed, _ = self._table("avail_actions", agent, mask, spec.act_dims[agent])
                table[:, agent, : allowed.shape[-1]] = allowed != 0
        return table

    def back(self, actions: Tensor, shapes: list[tuple[int, ...]] | None) -> Any:
        """Actions in the form of the observations."""
        if self.kind == "array":
            chosen = actions[0] if self.given.ndim == 2 else actions
            return chosen if isinstance(self.given, Tensor) else chosen.numpy()
        done = {agent: self._action(actions[:, agent], agent, shapes) for agent in self.rows}
        if self.kind == "dict":
            return {self.agents[agent]: done[agent] for agent in done}
        return done[0] if self.kind == "row" else type(self.given)(done.values())

    def _action(self, actions: Tensor, agent: int, shapes: list[tuple[int, ...]] | None) -> Any:
        chosen = actions if self.spec.discrete else actions[:, : self.spec.act_dims[agent]]
        if shapes is not None:
            chosen = chosen.reshape(len(chosen), *shapes[agent])
        chosen = chosen[0] if self.single else chosen
        row = self.rows[agent]
        if isinstance(row, Tensor):
            return chosen
        if self.spec.discrete and self.single:
            return int(chosen)
        return chosen.tolist() if isinstance(row, list | tuple) else chosen.numpy()


def _is_row(given: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float | np.number) for value in given)


def _boxes(
    spaces: Any, agents: Sequence[str], spec: Spec
) -> tuple[tuple[Tensor, Tensor] | None, list[tuple[int, ...]] | None]:
    """Bounds of each agent's actions, padded with zeros, and their shapes; None where actions stay in [-1, 1]."""
    if spaces is None or spec.discrete:
        return None, None
    get: Callable[[str], Any] = spaces if callable(spaces) and not hasattr(spaces, "low") else lambda _: spaces
    if isinstance(spaces, Mapping):
        get = spaces.__getitem__
    elif isinstance(spaces, list | tuple):
        get = dict(zip(agents, spaces, strict=False)).__getitem__
    bounds = [torch.zeros(spec.n_agents, spec.act_dim) for _ in range(2)]
    shapes = []
    for i, agent in enumerate(agents):
        try:
            space = get(agent)
            low, high = (np.asarray(bound, np.float32).ravel() for bound in (space.low, space.high))
        except (KeyError, AttributeError):
            raise DataError(f"action_spaces holds no box (low, high) of {agent}.") from None
        if len(low) != spec.act_dims[i] or not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise DataError(f"The action space of {agent} is no box of {spec.act_dims[i]} bounded numbers: {space}.")
        bounds[0][i, : len(low)], bounds[1][i, : len(low)] = torch.from_numpy(low), torch.from_numpy(high)
        shapes.append(tuple(space.shape))
    return (bounds[0], bounds[1]), shapes
