"""Rows of speed.py for the token world model: what its cache saves, and what that takes.

An imagination is 8 steps from 256 starts without a past, at the default sizes and under random actions, in the
observations of a task. The loop (loop_tokens.py) passes the whole sequence for each token. Told besides: all tokens
of an observation at once instead of one after another; one more place by the cache and by a whole pass, where seven
steps have been; and the bytes of the cache beside the formula of docs/marie.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from loop_tokens import LoopTokens
from timing import SIZES, Patience, make_batch, medians

from offline_marl.core.config import build
from offline_marl.core.types import Batch
from offline_marl.worldmodels.facts import measure
from offline_marl.worldmodels.marie import Marie, MarieConfig
from offline_marl.worldmodels.token_carry import Draws

STARTS, STEPS = 256, 8


def prepare(size: str, **settings: Any) -> tuple[Marie, Batch]:
    """A model that knows nothing, and starts."""
    torch.manual_seed(0)
    rows = make_batch(SIZES[size], STARTS, 0)
    facts = measure(SIZES[size], rows.obs, rows.next_obs, rows.rewards, rows.terminations)
    return Marie(build(MarieConfig, {"window": 0, **settings}), facts), rows


def draws_of(model: Marie, rows: int) -> Draws:
    shape = (rows, model.spec.n_agents, model.layout.tokens)
    return Draws(torch.rand(shape), torch.randint(model.members, (rows,)))


def imagination(model: Marie, starts: Batch) -> Callable[[], object]:
    def call() -> None:
        carry = model.begin(starts)
        for _ in range(STEPS):
            _, carry = model.step(carry, starts.actions)

    return call


def plain(model: Marie, starts: Batch) -> Callable[[], object]:
    loop = LoopTokens(model)

    def call() -> None:
        carry = loop.begin(starts)
        for _ in range(STEPS):
            _, carry = loop.step(carry, starts.actions, draws_of(model, len(starts)))

    return call


def one_place(model: Marie, starts: Batch) -> dict[str, Callable[[], object]]:
    """One more token by the cache, and by a pass over all that was."""
    nets, width, rows = model.nets, model.config.width, len(starts) * model.spec.n_agents
    filled = (STEPS - 1) * model.layout.block
    cache = nets.transformer.cache(rows)
    x = torch.randn(model.members, rows, filled + 1, width) * 0.02
    with torch.no_grad():
        nets.transformer.extend(x[:, :, :filled], cache)

    @torch.no_grad()
    def cached() -> None:
        cache.length = filled
        nets.transformer.extend(x[:, :, filled:], cache)

    @torch.no_grad()
    def whole() -> None:
        nets.transformer(x)

    return {"cached": cached, "whole": whole}


def cache_bytes(model: Marie, starts: Batch) -> tuple[int, int]:
    """Of the tensors of a cache, and by the formula."""
    carry = model.step(model.begin(starts), starts.actions)[1]
    held = sum(each.numel() * each.element_size() for each in (*carry.cache.keys, *carry.cache.values))
    config, layout = model.config, model.layout
    places = layout.steps * (layout.tokens + layout.act_tokens + 1) + layout.tokens - layout.pending
    numbers = 2 * config.layers * config.members * layout.n_agents * places * config.width
    return held, 4 * numbers * len(starts)


def compare_tokens(size: str, patience: Patience) -> None:
    model, starts = prepare(size)
    at_once, _ = prepare(size, decoding="parallel")
    found = medians(
        {
            "ours": imagination(model, starts),
            "loop": plain(model, starts),
            "parallel": imagination(at_once, starts),
            "parallel loop": plain(at_once, starts),
        },
        *patience,
    )
    place = medians(one_place(model, starts), *patience)
    held, formula = cache_bytes(model, starts)
    told = [
        f"{'imagined tokens':18}  {size:8} {STARTS} x {STEPS}",
        f"ours {found['ours'] * 1e3:6.0f} ms",
        f"loop over ours {found['loop'] / found['ours']:.2f}",
        f"at once {found['parallel'] * 1e3:6.0f} ms",
        f"loop over that {found['parallel loop'] / found['parallel']:.2f}",
        f"one by one over at once {found['ours'] / found['parallel']:.2f}",
        f"a place, whole over cached {place['whole'] / place['cached']:.1f}",
        f"cache {held / 1e6:.1f} MB, by the formula {formula / 1e6:.1f} MB",
    ]
    print("   ".join(told), flush=True)


TOKENS: dict[str, Callable[[str, Patience], None]] = {"imagined-tokens": compare_tokens}
