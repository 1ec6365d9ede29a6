"""Validation of data sets: all problems, each in one sentence that says where.

Fields are looked through in chunks, so that a set larger than memory is checked through its memory map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offline_marl.core.axes import AxisError, axes_of_fields, bind
from offline_marl.core.small_files import shown
from offline_marl.core.types import DataError
from offline_marl.datasets.arrays.presence import comebacks, rows_mask
from offline_marl.datasets.episode_index import last_steps, starts
from offline_marl.datasets.metadata import mistake

SEEN = frozenset({"obs", "state", "avail_actions"})
"""Fields with time+1 rows an episode; the others have time."""
DTYPES = {
    **dict.fromkeys(("obs", "state", "rewards"), (torch.float32,)),
    **dict.fromkeys(("terminations", "truncations", "avail_actions", "mask"), (torch.bool,)),
    "actions": (torch.float32, torch.int64),
}
OUTSIDE = 1.0 + 1e-6
CHUNK = 1 << 20
"""Entries of a field that are looked at together."""
REWARDS = ("team", "own")
"""What the metadata's `reward` may say: all agents get the same, or each its own."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a data set, in one sentence."""

    field: str
    """Which field; `lengths`, `spec` or `metadata` too, `file` where nothing of it can be read."""
    where: str
    """The first place, such as `episode 3, step 7`; empty where it is no single place."""
    count: int
    """Rows, entries or episodes that are concerned; 0 where the field as a whole is."""
    sentence: str


def problems(data: Any) -> list[Problem]:
    """All that is wrong with a recording or a data set; empty for one that can be used."""
    return [*_metadata(data), *_flat(data), *(_team(data) if hasattr(data, "spec") else [])]


def check(data: Any) -> None:
    """Refuse what no learner could use.

    Raises:
        DataError: The first problem, and how many more there are.
    """
    _refuse(problems(data))


def check_outside(data: Any) -> None:
    """Refuse data that cannot even be computed with: metadata, rows, kinds of numbers and widths, not the numbers.

    Raises:
        DataError: See `check`.
    """
    shapes, _ = _shapes(data)
    _refuse([*_metadata(data), *shapes, *(_widths(data) if hasattr(data, "spec") and not shapes else [])])


def _refuse(all_problems: list[Problem]) -> None:
    if len(all_problems) == 1:
        raise DataError(all_problems[0].sentence)
    if all_problems:
        more = f" (and {len(all_problems) - 1} more: `offline-marl data verify` lists them)."
        raise DataError(all_problems[0].sentence.removesuffix(".") + more)


def chunks(value: Tensor) -> Iterator[tuple[int, Tensor]]:
    """First row and rows of each piece of about `CHUNK` entries; views, nothing is copied."""
    rows = max(1, CHUNK // max(1, value[:1].numel()))
    for first in range(0, len(value), rows):
        yield first, value[first : first + rows]


def _metadata(data: Any) -> list[Problem]:
    sentence = mistake(data.metadata)
    return [] if sentence is None else [Problem("metadata", "", 0, sentence)]


def _flat(data: Any) -> list[Problem]:
    problems, sound = _shapes(data)
    if not _countable(data.lengths):
        return problems
    for name in sound:
        if getattr(data, name).is_floating_point():
            problems += _finite(data, name)
    if "actions" in sound and data.actions.is_floating_point():
        problems += _bounds(data.actions, hasattr(data, "spec"))
    if {"terminations", "truncations"} <= sound.keys():
        problems += _borders(data, "mask" in sound)
    return problems + _ends_seen(data)


def _ends_seen(data: Any) -> list[Problem]:
    known = data.ends_seen
    if known is None or (known.dtype == torch.bool and known.shape == data.lengths.shape):
        return []
    message = (
        f"Field 'ends_seen' holds {known.dtype} of shape {tuple(known.shape)}, it should hold one bool an episode."
    )
    return [Problem("ends_seen", "", 0, message)]


def _countable(lengths: Tensor) -> bool:
    return lengths.dim() == 1 and lengths.dtype == torch.int64 and bool(len(lengths)) and bool((lengths > 0).all())


def _shapes(data: Any) -> tuple[list[Problem], dict[str, None]]:
    """Problems of rows, dtypes and axes, and the fields that have none."""
    if not _countable(data.lengths):
        short = int((data.lengths < 1).sum())
        message = "A data set needs at least one episode, and each episode at least one step."
        if data.lengths.dim() != 1 or data.lengths.dtype != torch.int64:
            message = (
                f"Field 'lengths' holds {data.lengths.dtype} in {data.lengths.dim()} axes, it should hold int64 in 1."
            )
        return [Problem("lengths", "", short, message)], {}
    problems: list[Problem] = []
    sound: dict[str, None] = {}
    steps = int(data.lengths.sum())
    for name, dtypes in DTYPES.items():
        value = getattr(data, name, None)
        if value is None:
            continue
        if name == "actions" and not hasattr(data, "spec"):
            dtypes = dtypes[:1]  # the body of a recording is moved by numbers, never by choices
        rows, expected = (len(value) if value.dim() else 0), steps + (len(data.lengths) if name in SEEN else 0)
        if rows != expected:
            message = f"Field '{name}' has {rows} rows, the episode lengths make {expected}."
            problems.append(Problem(name, "", abs(rows - expected), message))
        elif value.dtype not in dtypes:
            wanted = " or ".join(str(dtype) for dtype in dtypes)
            problems.append(Problem(name, "", 0, f"Field '{name}' holds {value.dtype}, it should hold {wanted}."))
        else:
            sound[name] = None
    return problems + _axes(data, sound), sound


def _axes(data: Any, sound: dict[str, None]) -> list[Problem]:
    problems: list[Problem] = []
    bound: dict[str, Any] = {}
    kind: Any = type(data)
    for name, axes in axes_of_fields(kind).items():
        if name not in sound:
            continue
        try:
            bind(name, tuple(getattr(data, name).shape), axes, bound)
        except AxisError as error:
            problems.append(Problem(name, "", 0, f"The data's shapes disagree: {error}"))
            del sound[name]
    return problems


def _count(value: Tensor, is_bad: Callable[[Tensor], Tensor]) -> tuple[int, int]:
    """How many rows are bad, and the first of them."""
    count, first = 0, -1
    for begin, piece in chunks(value):
        bad = is_bad(piece)
        rows = bad.flatten(1).any(-1) if bad.dim() > 1 else bad
        hits = int(rows.sum())
        if hits and first < 0:
            first = begin + int(rows.int().argmax())
        count += hits
    return count, first


def _place(data: Any, name: str, row: int) -> str:
    lengths = data.lengths + (1 if name in SEEN else 0)
    episode = int(torch.searchsorted(torch.cumsum(lengths, 0), row, right=True))
    return f"episode {episode}, step {row - int(starts(lengths)[episode])}"


def _finite(data: Any, name: str) -> list[Problem]:
    # A sum is finite where all entries are (but not only there), and is much the fastest way to see it.
    value = getattr(data, name)
    if all(bool(torch.isfinite(piece.sum())) for _, piece in chunks(value)):
        return []
    count, row = _count(value, lambda piece: ~torch.isfinite(piece))
    if not count:
        return []
    where = _place(data, name, row)
    return [Problem(name, where, count, f"Field '{name}' is not finite in {where} ({count} rows in all).")]


def _bounds(actions: Tensor, team: bool) -> list[Problem]:
    """Entries outside [-1, 1]; those of a `team`, if all are whole numbers, may be choices that are held as floats."""
    outside, whole = 0, team
    for _, piece in chunks(actions):
        whole = whole and bool((piece == piece.round()).all())
        if piece.numel() and not bool(piece.abs().amax() <= OUTSIDE):
            outside += int(((piece.abs() > OUTSIDE) & torch.isfinite(piece)).sum())
    if not outside:
        return []
    asked = "all are whole numbers: if they are choices, give them as integers; else " if whole else ""
    message = (
        f"{outside:,} of {actions.numel():,} action entries lie outside [-1, 1]: {asked}"
        "scale them by action_scale = (their bound), or clip them by clip_actions = true."
    )
    return [Problem("actions", "", outside, message)]


def _borders(data: Any, masked: bool) -> list[Problem]:
    """Episodes that end without a flag, and those that go on after one."""
    flagged = []
    for (first, terminations), (_, truncations) in zip(
        chunks(data.terminations), chunks(data.truncations), strict=True
    ):
        over = terminations | truncations  # of a team: over once it is for all agents
        if masked:
            over = over | ~data.mask[first : first + len(over)]
        flagged.append((over.all(-1) if over.dim() > 1 else over).nonzero().flatten() + first)
    # Both faults are set differences of two sorted lists of rows, those with a flag and the last of each episode: flags
    # may lie in a file larger than memory, and are few beside its rows.
    flags, last = torch.cat(flagged), last_steps(data.lengths)
    unended = (~torch.isin(last, flags)).nonzero().flatten()
    early = flags[~torch.isin(flags, last)]
    # The episode of a row is the number of episodes that end before it.
    ongoing = torch.bincount(torch.searchsorted(torch.cumsum(data.lengths, 0), early, right=True)).nonzero().flatten()
    problems_found = []
    for episodes, fault in (
        (unended, "ends without termination or truncation"),
        (ongoing, "goes on after a termination or truncation"),
    ):
        if len(episodes):
            more = f" ({len(episodes)} episodes in all)" if len(episodes) > 1 else ""
            where, sentence = f"episode {int(episodes[0])}", f"Episode {int(episodes[0])} {fault}{more}."
            problems_found.append(Problem("terminations", where, len(episodes), sentence))
    return problems_found


def _team(data: Any) -> list[Problem]:
    if not _countable(data.lengths):
        return []
    _, sound = _shapes(data)
    problems = _widths(data)
    wrong = {problem.field for problem in problems}
    fit = [name for name in sound if name not in wrong]
    for name, dims in (("obs", data.spec.obs_dims), ("actions", data.spec.act_dims)):
        if name in fit and getattr(data, name).is_floating_point():
            problems += _padding(data, name, dims)
    if "actions" in fit and data.spec.discrete:
        problems += _choices(data, "avail_actions" in fit)
    if "mask" in fit and {"obs", "rewards", "terminations", "truncations"} <= set(fit):
        problems += _absences(data)
    return problems + (_rewards(data, "mask" in fit) if "rewards" in sound else [])


def _absences(data: Any) -> list[Problem]:
    """Steps with nobody there, numbers and flags of whoever is away, agents that stay after a flag or come back."""
    mask = data.mask
    ended = data.terminations | data.truncations
    stays = torch.zeros_like(mask)
    stays[:-1] = mask[1:]
    stays[last_steps(data.lengths)] = False
    done = ended | (data.rewards != 0)
    acted = (data.actions != 0).flatten(2).any(-1) if data.actions.dim() > 2 else data.actions != 0
    seen = (data.obs != 0).any(-1) & ~rows_mask(mask, data.lengths)
    faults = (
        ("mask", "mask", ~mask.any(-1), "Nobody is there"),
        ("obs", "obs", seen.any(-1), "An agent that is away sees something else than zeros"),
        ("rewards", "rewards", ((done | acted) & ~mask).any(-1), "An agent that is away acts, earns something or ends"),
        ("mask", "mask", (ended & stays).any(-1), "An agent that has ended is there afterwards"),
        ("mask", "mask", comebacks(mask, data.lengths).any(-1), "An agent that has left comes back"),
    )
    problems = []
    for field, rows, wrong, message in faults:
        if bool(wrong.any()):
            where, count = _place(data, rows, int(wrong.int().argmax())), int(wrong.sum())
            problems.append(Problem(field, where, count, f"{message} in {where} ({count} rows in all)."))
    return problems


def _widths(data: Any) -> list[Problem]:
    spec, problems = data.spec, []

    def differ(name: str, what: str, expected: tuple[int, ...]) -> None:
        axes = tuple(getattr(data, name).shape[1:])
        if axes != expected:
            problems.append(Problem(name, "", 0, f"{what} have axes {axes}, the spec says {expected}."))

    differ("obs", "Observations", (spec.n_agents, spec.obs_dim))
    if data.mask is not None:
        differ("mask", "Masks", (spec.n_agents,))
    if data.actions.is_floating_point() == spec.discrete:
        message = f"The spec says {spec.action_kind} actions, the data holds {data.actions.dtype}."
        problems.append(Problem("actions", "", 0, message))
    else:
        differ("actions", "Actions", (spec.n_agents,) if spec.discrete else (spec.n_agents, spec.act_dim))
    if data.avail_actions is not None:
        differ("avail_actions", "Available choices", (spec.n_agents, spec.act_dim))
    if data.state is not None and spec.state_dim:
        differ("state", "States", (spec.state_dim,))
    return problems


def _padding(data: Any, name: str, dims: tuple[int, ...]) -> list[Problem]:
    value, rows = getattr(data, name), 0
    for agent, width in enumerate(dims):
        if width < value.shape[-1]:
            rows += _count(value, lambda piece, a=agent, w=width: piece[:, a, w:] != 0)[0]  # type: ignore[misc]
    message = f"Field '{name}' is not zero where the spec says an agent's row is padded."
    return [Problem(name, "", rows, message)] if rows else []


def _choices(data: Any, listed: bool) -> list[Problem]:
    ends, widths = torch.cumsum(data.lengths, 0), torch.tensor(data.spec.act_dims)
    unknown = forbidden = 0
    for first, actions in chunks(data.actions):
        known = (actions >= 0) & (actions < widths)
        unknown += int((~known).sum())
        if listed:
            steps = torch.arange(first, first + len(actions))
            rows = steps + torch.searchsorted(ends, steps, right=True)
            chosen = actions.clamp(0, data.spec.act_dim - 1).unsqueeze(-1)
            forbidden += int((known & ~data.avail_actions[rows].gather(-1, chosen).squeeze(-1)).sum())
    problems = []
    if unknown:
        message = f"{unknown} actions are choices that their agent does not have."
        problems.append(Problem("actions", "", unknown, message))
    if forbidden:
        message = f"{forbidden} actions are choices that avail_actions forbids."
        problems.append(Problem("avail_actions", "", forbidden, message))
    return problems


def _rewards(data: Any, masked: bool) -> list[Problem]:
    claim = data.metadata.get("reward") if isinstance(data.metadata, Mapping) else None
    if claim is not None and claim not in REWARDS:
        message = f"The metadata's 'reward' is {shown(claim)}, it should be {' or '.join(REWARDS)}."
        return [Problem("metadata", "", 0, message)]
    if claim != "team":
        return []
    count, row = _count(data.rewards, lambda piece: piece != piece[:, :1]) if not masked else unequal_rewards(data)
    if not count:
        return []
    where = _place(data, "rewards", row)
    message = f"The metadata claim a team reward, but the agents' rewards differ in {where} ({count} steps in all)."
    return [Problem("rewards", where, count, message)]


def unequal_rewards(data: Any) -> tuple[int, int]:
    """How many steps pay the agents that are there differently, and the first of them; of a set with a mask."""
    high, low = (data.rewards.masked_fill(~data.mask, sign * torch.inf) for sign in (-1, 1))
    wrong = high.amax(-1) > low.amin(-1)
    return int(wrong.sum()), int(wrong.int().argmax())
