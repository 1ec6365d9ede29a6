"""Networks of a token world model: each agent a sequence of blocks [observation tokens | action tokens | summary].

A block is a step. The summary stands for what all agents see and do in it, by a Perceiver over their tokens; what
follows is read there: the first token of the next observation (or all of them), the reward, the end, what will be
allowed. Members are independent and see the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from offline_marl.networks.ensembles import StackedMLP
from offline_marl.networks.transformer import Cache, StackedAggregator, StackedTransformer

Features = Annotated[Tensor, "member row agent feature"]
ObsTokens = Annotated[Tensor, "row agent token"]
ActTokens = Annotated[Tensor, "row agent token"]
Exact = Annotated[Tensor, "row number"]
ObsBlocks = Annotated[Tensor, "row time agent token"]
ActBlocks = Annotated[Tensor, "row time agent token"]
Present = Annotated[Tensor, "row agent"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of a token world model."""

    n_agents: int
    obs: int
    """Numbers of an observation."""
    tokens: int
    """K, of an observation."""
    vocabulary: int
    act_tokens: int
    """M, of an action."""
    act_vocabulary: int
    choices: int
    """Choices whose availability is told; 0 for none."""
    reward_numbers: int
    """Numbers that tell a reward: logits of its classes, or one."""
    terminates: bool
    steps: int
    """Blocks that fit into a sequence."""
    parallel: bool
    """Tell all tokens of the next observation at once instead of one after another."""
    exact: int = 0
    """Numbers of a step, of all agents, that are read as they are at its summary; 0 for none."""

    @property
    def block(self) -> int:
        """Places of a step."""
        return self.tokens + self.act_tokens + 1

    @property
    def pending(self) -> int:
        """Last tokens of an observation that are read together with what is done."""
        return self.tokens if self.parallel else 1


@dataclass(frozen=True, slots=True)
class Told:
    """Logits of what follows a step; leading axes `[member, row, agent]` or `[member, row, time, agent]`."""

    rewards: Annotated[Tensor, "*lead choice"]
    end: Annotated[Tensor, "*lead"] | None
    avail: Annotated[Tensor, "*lead choice"] | None
    """Of the next step, by what is seen in it."""


class TokenMembers(nn.Module):
    """Transformers over tokens, several alike.

    Args:
        members: How many.
        layout: Sizes.
        width: Features of a place.
        layers: Blocks of the transformer.
        heads: Of every attention.
        depth: Blocks among the Perceiver's latents.
        dropout: In training.
    """

    def __init__(
        self, members: int, layout: Layout, *, width: int, layers: int, heads: int, depth: int, dropout: float
    ) -> None:
        super().__init__()
        self.members, self.layout, self.width = members, layout, width
        self.obs_table = nn.Parameter(torch.randn(members, layout.vocabulary, width) * 0.02)
        self.act_table = nn.Parameter(torch.randn(members, layout.act_vocabulary, width) * 0.02)
        self.owners = nn.Parameter(torch.randn(members, 1, layout.n_agents, 1, width) * 0.02)
        inside = layout.tokens + layout.act_tokens
        self.aggregator = StackedAggregator(members, layout.n_agents, inside, width, heads, depth, dropout)
        places = layout.steps * layout.block + layout.tokens - layout.pending
        self.transformer = StackedTransformer(members, width, layers, heads, places, dropout)
        told = layout.vocabulary * (layout.tokens if layout.parallel else 1)
        self.obs_head = StackedMLP(members, width, (width,), told)
        self.reward_head = StackedMLP(members, width, (width,), layout.reward_numbers)
        self.end_head = StackedMLP(members, width, (width,), 1) if layout.terminates else None
        asked = width + layout.obs
        self.avail_head = StackedMLP(members, asked, (width,), layout.choices) if layout.choices else None
        wide = (4 * width, 4 * width)
        self.sight = StackedMLP(members, layout.exact, wide, layout.n_agents * width) if layout.exact else None

    def forward(
        self,
        obs: ObsBlocks,
        actions: ActBlocks,
        there: Annotated[Tensor, "row time agent"],
        exact: Annotated[Tensor, "row time number"] | None = None,
        next_obs: Annotated[Tensor, "row time agent obs"] | None = None,
    ) -> tuple[Annotated[Tensor, "member row time agent token choice"], Told]:
        """What is told after each step of segments, each place knowing only what came before it.

        Args:
            obs: Tokens of what is seen, one step more than what is done.
            actions: Tokens of what is done.
            there: Bool; steps of agents that are away are read by no other step.
            exact: What all agents see and do in each step, where tokens are of residuals.
            next_obs: Standardised, what is seen after each step; what will be allowed is told where it is given.

        Returns:
            Logits of the tokens of each next observation, and of the rest.
        """
        layout, (rows, time, agents, _) = self.layout, actions.shape
        someone = there | ~there.any(-1, keepdim=True)
        known = None if exact is None else exact.flatten(0, 1)
        flat = self._blocks(obs[:, :-1].flatten(0, 1), actions.flatten(0, 1), someone.flatten(0, 1), known)
        blocks = flat.reshape(self.members, rows, time, agents, layout.block, self.width).transpose(2, 3)
        x = blocks.reshape(self.members, rows * agents, time * layout.block, self.width)
        if not layout.parallel:
            last = self._obs_features(obs[:, -1, :, : layout.tokens - 1])
            x = torch.cat([x, last.flatten(1, 2)], dim=2)
        out = self.transformer(x, self._mask(there, x.shape[2]))
        slots = self._by_time(out[:, :, layout.block - 1 :: layout.block][:, :, :time], rows)
        if layout.parallel:
            told = self._logits(slots)
        else:
            following = out[:, :, layout.block - 1 :].unfold(2, layout.tokens, layout.block).transpose(-2, -1)
            told = run(self.obs_head, self._by_time(following, rows))
        return told, self.told(slots, next_obs)

    @contextmanager
    def dropping(self, generator: torch.Generator) -> Iterator[None]:
        """Dropout from a learner's own generator, instead of torch's global one; nothing where there is none."""
        if not self.transformer.drop.p:
            yield
            return
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        devices = [self.obs_table.device] if self.obs_table.is_cuda else []
        self.train()
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            yield
        self.eval()

    def prefill(
        self,
        obs: ObsBlocks,
        actions: ActBlocks,
        there: Annotated[Tensor, "row time agent"],
        blank: Annotated[Tensor, "row"] | None,
        exact: Annotated[Tensor, "row time number"] | None = None,
        unread: Present | None = None,
    ) -> Cache:
        """The cache of a context and of what is seen after it, but for its pending tokens.

        Args:
            obs: Tokens of the context and of now.
            actions: Tokens of the context.
            there: Bool, who was there in each step of the context.
            blank: Steps at each row's front that never were.
            exact: What all agents see and do in each step of the context, where tokens are of residuals.
            unread: Steps at the front in which an agent was not there yet, the blank ones among them; those alone
                unless said.
        """
        layout, (rows, time, agents, _) = self.layout, actions.shape
        cache = self.transformer.cache(rows * agents)
        parts = []
        if time:
            someone = there | ~there.any(-1, keepdim=True)
            known = None if exact is None else exact.flatten(0, 1)
            flat = self._blocks(obs[:, :-1].flatten(0, 1), actions.flatten(0, 1), someone.flatten(0, 1), known)
            blocks = flat.reshape(self.members, rows, time, agents, layout.block, self.width).transpose(2, 3)
            parts.append(blocks.reshape(self.members, rows * agents, time * layout.block, self.width))
        if layout.tokens > layout.pending:
            parts.append(self._obs_features(obs[:, -1, :, : layout.tokens - layout.pending]).flatten(1, 2))
        if parts:
            self.transformer.extend(torch.cat(parts, dim=2), cache, *self._fronts(blank, unread))
        return cache

    def advance(
        self,
        cache: Cache,
        obs: ObsTokens,
        actions: ActTokens,
        present: Present,
        blank: Tensor | None,
        exact: Exact | None = None,
        unread: Tensor | None = None,
    ) -> Features:
        """Features at the summary of a step, whose pending and action tokens the cache takes in."""
        block = self._blocks(obs, actions, present, exact)[:, :, :, self.layout.tokens - self.layout.pending :]
        out = self.transformer.extend(block.flatten(1, 2), cache, *self._fronts(blank, unread))
        return out[:, :, -1].reshape(self.members, *obs.shape[:2], self.width)

    def follow(
        self,
        cache: Cache,
        token: Annotated[Tensor, "row agent"],
        blank: Annotated[Tensor, "row"] | None,
        unread: Tensor | None = None,
    ) -> Features:
        """Features at one more token of the next observation, which the cache takes in."""
        x = self._obs_features(token.unsqueeze(-1)).flatten(1, 2)
        out = self.transformer.extend(x, cache, *self._fronts(blank, unread))
        return out.reshape(self.members, *token.shape, self.width)

    def rewrite(
        self,
        cache: Cache,
        tokens: Annotated[Tensor, "row agent token"],
        blank: Annotated[Tensor, "row"] | None,
        unread: Tensor | None = None,
    ) -> Cache:
        """The cache with other tokens of the next observation in place of those that it took in last."""
        kept = tokens[..., : self.layout.tokens - self.layout.pending]
        if not kept.shape[-1]:
            return cache
        cache = replace(cache, length=cache.length - kept.shape[-1])
        self.transformer.extend(self._obs_features(kept).flatten(1, 2), cache, *self._fronts(blank, unread))
        return cache

    def first_logits(self, slots: Features) -> Annotated[Tensor, "member row agent token choice"]:
        """Logits that are told at a summary: of the first token, or of all."""
        return self._logits(slots)

    def next_logits(self, features: Features) -> Annotated[Tensor, "member row agent choice"]:
        """Logits of the token behind one."""
        return run(self.obs_head, features)

    def told(self, slots: Tensor, next_obs: Tensor | None = None) -> Told:
        """What is told at summaries, but for tokens; see `forward`."""
        end = None if self.end_head is None else run(self.end_head, slots).squeeze(-1)
        avail = None if next_obs is None else self.allowed(slots, next_obs)
        return Told(run(self.reward_head, slots), end, avail)

    def allowed(
        self, slots: Tensor, next_obs: Annotated[Tensor, "*lead obs"]
    ) -> Annotated[Tensor, "member *lead choice"] | None:
        """Logits of what is allowed in the next step, by what is seen in it: chance decides both together."""
        if self.avail_head is None:
            return None
        seen = next_obs.expand(self.members, *next_obs.shape)
        return run(self.avail_head, torch.cat([slots, seen], dim=-1))

    def _logits(self, slots: Tensor) -> Tensor:
        out = run(self.obs_head, slots)
        return out.reshape(*out.shape[:-1], out.shape[-1] // self.layout.vocabulary, self.layout.vocabulary)

    def _obs_features(self, tokens: ObsTokens) -> Annotated[Tensor, "member row agent token feature"]:
        return self.obs_table[:, tokens] + self.owners

    def _blocks(
        self, obs: ObsTokens, actions: ActTokens, present: Present, exact: Exact | None
    ) -> Annotated[Tensor, "member row agent token feature"]:
        """Features of whole steps, the summary last."""
        inside = torch.cat([self.obs_table[:, obs], self.act_table[:, actions]], dim=3)
        summary = self.aggregator(inside, present)
        if self.sight is not None and exact is not None:
            summary = summary + run(self.sight, exact.expand(self.members, *exact.shape)).view_as(summary)
        return torch.cat([inside + self.owners, summary.unsqueeze(3)], dim=3)

    def _by_time(self, x: Tensor, rows: int) -> Tensor:
        """From sequences of agents to `[member, row, time, agent, ...]`."""
        return x.reshape(self.members, rows, self.layout.n_agents, *x.shape[2:]).transpose(2, 3)

    def _mask(self, there: Annotated[Tensor, "row time agent"], places: int) -> Annotated[Tensor, "row place place"]:
        """A step is read by later ones if its agent was there, and by itself."""
        step = torch.arange(places, device=there.device) // self.layout.block
        known = there.transpose(1, 2).flatten(0, 1)
        known = nn.functional.pad(known, (0, 1), value=True)[:, step]
        return known.unsqueeze(1) | (step.unsqueeze(-1) == step)

    def _fronts(
        self, blank: Annotated[Tensor, "row"] | None, unread: Present | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Places of each sequence that are blank, and that are not read, from steps."""
        places = None if blank is None else (blank * self.layout.block).repeat_interleave(self.layout.n_agents)
        return places, None if unread is None else (unread * self.layout.block).flatten()


def run(head: StackedMLP, x: Tensor) -> Tensor:
    """A stacked network over any leading axes."""
    out: Tensor = head(x.flatten(1, -2))
    return out.reshape(*x.shape[:-1], out.shape[-1])
