"""MARIE's token world model (Zhang et al., 2024), fitted to recorded data: observations as tokens, told one by one.

Departs from the published code: fitted in two phases, the tokenizer first, which then stays; several small members on
one tokenizer; context before an imagined start, and more steps than positions; tokens of a step marked by slot and
owner; a next observation at every step; rewards and ends agreed by the agents, and by all who see the same number.
Paper: arXiv 2406.15836.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from offline_marl.core.acting.history import newest
from offline_marl.core.axes import PerAgent
from offline_marl.core.fields import Count, CountOrZero, NotNegative, Share
from offline_marl.core.learner import clip_by_member
from offline_marl.core.types import Batch, History, Metrics, Needs, Obs, Spec
from offline_marl.losses import tokens as losses
from offline_marl.networks.tokenizer import BinTokenizer, FiniteScalarQuantizer, Tokenizer, VectorQuantizer
from offline_marl.networks.transformer import Cache
from offline_marl.worldmodels.base import (
    PerMember,
    Prediction,
    Spread,
    TokenSpread,
    WorldModel,
    WorldModelConfig,
    worldmodels,
)
from offline_marl.worldmodels.facts import Facts
from offline_marl.worldmodels.token_carry import Draws, TokenCarry, joined
from offline_marl.worldmodels.token_members import Layout, TokenMembers, Told


class MarieConfig(WorldModelConfig):
    """Fields of the common base and those of tokens; sized for a CPU, the published sizes stand beside each field."""

    batch_size: Count = 32
    """Segments of one update (published: 30 to 40); of the tokenizer, all of their steps."""
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (128, 128)
    """Widths of the hidden layers of the tokenizer's encoder and decoder (published: 256, 256)."""
    window: CountOrZero = 3
    """Recorded steps that imagination reads before its start; the published code reads none."""
    members: Count = 2
    """Independent transformers on one tokenizer, whose disagreement is the spread (published: 1)."""
    tokenizer: Literal["vq", "fsq", "bins"] = "vq"
    """Learned codes, a fixed lattice, or bins of each coordinate, which learn nothing."""
    tokenizer_steps: CountOrZero = 1_000
    """Updates of the tokenizer, at the beginning of the fit; afterwards it stays as it is."""
    tokens: Count = 4
    """Tokens of an observation (published: 16); with bins there is one for each coordinate."""
    vocabulary: Annotated[int, Field(ge=2)] = 64
    """Codes, or bins of a coordinate (published: 512, or 256); a lattice has as many as its levels make."""
    levels: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (8, 8)
    """Of each number of a lattice's token (published: 8, 8, 8)."""
    code_width: Count = 16
    """Numbers of a code (published: 128; MAMuJoCo 64)."""
    code_decay: Share = 0.99
    """How much of a code's moving average stays in an update (published: .8)."""
    commitment: NotNegative = 10.0
    """Weight of the distance between what is encoded and its code."""
    action_bins: Annotated[int, Field(ge=2)] = 64
    """Bins of each coordinate of a continuous action (published: 256)."""
    width: Count = 64
    """Features of a place in the transformer (published: 256)."""
    layers: Count = 2
    """Of the transformer (published: 10)."""
    heads: Count = 2
    """Of every attention (published: 4, the Perceiver 8)."""
    perceiver_layers: CountOrZero = 1
    """Of self-attention among the Perceiver's latents (published: 2)."""
    length: Annotated[int, Field(ge=2)] = 8
    """Steps that fit into a sequence: of a training segment, and of what imagination remembers (published: 15)."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """In training."""
    reward_bins: Annotated[int, Field(ge=8)] = 64
    """Classes of the reward, between the data's extremes on the symlog scale (published: 128)."""
    decoding: Literal["tokens", "parallel"] = "tokens"
    """Tokens of the next observation one after another, or all at once, independent given the past, which is faster."""
    rows_at_once: Count = 1_024
    """Imagined rows that keep their cache; more are predicted in parts of so many, from their tokens each time."""

    @model_validator(mode="after")
    def _fits(self) -> MarieConfig:
        if self.window >= self.length:
            raise ValueError(f"A window of {self.window} leaves no step of a length of {self.length} to imagine")
        if self.width % self.heads:
            raise ValueError(f"A width of {self.width} cannot be shared by {self.heads} heads")
        return self


@worldmodels.register("marie")
class Marie(WorldModel):
    """Minimises -log p of next tokens, rewards, ends and available choices in transformers over each agent's tokens."""

    Config: ClassVar[type[WorldModelConfig]] = MarieConfig
    needs = Needs(view="segments", next_obs=False)
    foresees = frozenset({"avail_actions"})
    held_out_rows = 1_024
    config: MarieConfig
    edges: Tensor
    act_present: Tensor

    def __init__(self, config: MarieConfig, facts: Facts) -> None:
        super().__init__(config, facts)
        spec = facts.spec
        self.members = config.members
        self.needs = replace(self.needs, length=config.length)
        self.grad_clip = 0.0  # clipped by member: see `_clip`
        self.team_rewards = spec.n_agents > 1 and alike(
            facts.reward_mean, facts.reward_std, facts.reward_low, facts.reward_high
        )
        self.register_buffer("act_present", spec.present("act"), persistent=False)
        low, high = (float(losses.symlog(value)) for value in (facts.reward_low.min(), facts.reward_high.max()))
        edges, self.sigma = losses.bin_edges(low, high, config.reward_bins)
        self.reward_borders = (low, high)
        self.register_buffer("edges", edges, persistent=False)
        self.tokenizer = make_tokenizer(config, facts)
        self.tokenizer_steps = config.tokenizer_steps if list(self.tokenizer.parameters()) else 0
        self.first_look = self.tokenizer_steps + 1 if self.tokenizer_steps else 0
        self.layout = layout_of(config, spec, self.tokenizer, facts.terminates)
        self.nets = TokenMembers(
            config.members,
            self.layout,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            depth=config.perceiver_layers,
            dropout=config.dropout,
        )
        self.nets.eval()
        self.remember("tokenizer", "nets")
        self.optimize("tokenizer", "nets", lr=config.lr)
        self.optimizer.register_step_pre_hook(self._clip)

    def update(self, batch: Batch) -> Metrics:
        """One step of the tokenizer, or, once it has had its updates, of every transformer on the same segments."""
        cuts = batch if batch.rewards.dim() == 3 else batch.map(lambda value: value.unsqueeze(1))
        there = torch.ones_like(cuts.terminations) if cuts.mask is None else cuts.mask
        seen = there if cuts.next_seen is None else there & cuts.next_seen
        obs = self._standardised(torch.cat([cuts.obs[:, :1], cuts.next_obs], dim=1))
        if self.updates < self.tokenizer_steps:
            counts = torch.cat([there[:, :1], seen], dim=1)
            parts = self.tokenizer.learn(obs, counts, self.generator)
        else:
            parts = self._losses(cuts, self.tokenizer.encode(obs), there, seen)
        loss = torch.stack(list(parts.values())).sum()
        self.descend(loss)
        # Per member, like an ensemble's; names are the same in both phases.
        told = {name: value.detach() for name, value in parts.items()}
        zero = torch.zeros_like(loss.detach())
        return {"loss/model": loss.detach()} | {f"loss/{name}": told.get(name, zero) for name in self._named}

    def _losses(self, cuts: Batch, tokens: Tensor, there: PerAgent, seen: PerAgent) -> dict[str, Tensor]:
        """Sums over members of each one's mean losses."""
        with self._dropping():
            logits, told = self.nets(tokens, self._act_tokens(cuts.actions), there)

        def each(values: Tensor, counts: Tensor) -> Tensor:
            return self.members * losses.weighted_mean(values, counts.expand_as(values))

        target = tokens[:, 1:].expand(self.members, *tokens[:, 1:].shape)
        rewards = losses.hl_gauss(losses.symlog(cuts.rewards).clamp(*self.reward_borders), self.edges, self.sigma)
        parts = {
            "tokens": each(losses.token_nll(logits, target), seen.unsqueeze(-1)),
            "rewards": each(losses.soft_cross_entropy(told.rewards, rewards.expand_as(told.rewards)), there),
        }
        if told.end is not None:
            ended = cuts.team_terminations.unsqueeze(-1).to(told.end.dtype).expand_as(told.end)
            parts["terminations"] = each(_binary(told.end, ended), there)
        if told.avail is not None and cuts.next_avail_actions is not None:
            legal = cuts.next_avail_actions.to(told.avail.dtype).expand_as(told.avail)
            parts["avail_actions"] = each(_binary(told.avail, legal), seen.unsqueeze(-1) & self.act_present)
        return parts

    @torch.no_grad()
    def begin(self, starts: Batch) -> TokenCarry:
        """Tokens of the starts and of the steps that were recorded before them."""
        now = self.tokenizer.encode(self._standardised(starts.obs)).unsqueeze(1)
        rows, device = len(starts.obs), starts.obs.device
        present = starts.mask
        if present is None:
            present = torch.ones(rows, self.spec.n_agents, dtype=torch.bool, device=device)
        present = present | ~present.any(-1, keepdim=True)  # of a row without agents nobody reads anything
        context, actions, blank = self._context(newest(starts.history, self.window), now)
        places = torch.arange(rows, device=device)
        return TokenCarry(torch.cat([context, now], dim=1), actions, blank, present, places, rows)

    @torch.no_grad()
    def step(self, carry: TokenCarry, actions: Tensor) -> tuple[Prediction, TokenCarry]:
        """Tokens drawn from one member for each row, whose reward it tells, too; what all members tell is the spread.

        Args:
            carry: From `begin` or the step before.
            actions: What the agents do; continuous ones are clamped into [-1, 1].
        """
        shape = (carry.rows, self.spec.n_agents, self.layout.tokens)
        uniform = torch.rand(shape, generator=self.generator, device=actions.device)
        speaker = torch.randint(self.members, (carry.rows,), generator=self.generator, device=actions.device)
        return self._stepped(carry, actions, Draws(uniform, speaker))

    @torch.no_grad()
    def errors(self, batch: Batch) -> PerMember:
        rows = batch if batch.rewards.dim() == 2 else batch.map(lambda value: value[:, 0])
        facts = self.facts
        speaker = torch.zeros(len(rows), dtype=torch.int64, device=rows.obs.device)
        prediction, _ = self._stepped(self.begin(rows), rows.actions, Draws(None, speaker))
        assert prediction.spread is not None
        obs_error = (prediction.spread.next_obs - facts.join(rows.next_obs)) / facts.change_std
        reward_error = (prediction.spread.rewards - rows.rewards) / facts.reward_std
        there = torch.ones_like(rows.terminations) if rows.mask is None else rows.mask
        seen = there if rows.next_seen is None else there & rows.next_seen
        counts = torch.cat([facts.counts(seen), there], dim=-1)
        squares = torch.cat([obs_error, reward_error], dim=-1).square() * counts
        return (squares.sum((-2, -1)) / counts.sum().clamp(min=1)).sqrt()

    def describe(self, rows: Batch) -> dict[str, Any]:
        """What the tokenizer loses: see `Tokenizer.describe`."""
        counts = torch.ones_like(rows.terminations) if rows.mask is None else rows.mask
        return {"tokenizer": self.tokenizer.describe(self._standardised(rows.obs), counts)}

    @torch.no_grad()
    def snapshot(self, improved: PerMember) -> None:
        """Remember the present weights of the members that improved, and the tokenizer, which they share."""
        for name in ("nets", "tokenizer"):
            best, now = (getattr(self, part).state_dict() for part in (f"best_{name}", name))
            for key, value in now.items():
                chosen = improved.to(value.device)
                chosen = chosen.any() if name == "tokenizer" else chosen.view(-1, *[1] * (value.dim() - 1))
                best[key].copy_(torch.where(chosen, value, best[key]))

    def _stepped(self, carry: TokenCarry, actions: Tensor, draws: Draws) -> tuple[Prediction, TokenCarry]:
        going = carry.slid(self.layout.steps)
        done = self._act_tokens(actions)[going.places]
        parts = torch.split(torch.arange(len(done), device=done.device), self.config.rows_at_once)
        if len(parts) <= 1:
            tokens, prediction, cache = self._foresee(going, done, draws.of(going.places))
        else:
            cache, told = None, []
            bare = replace(going, cache=None)
            for part in parts:
                told.append(self._foresee(bare.only(part), done[part], draws.of(going.places[part]))[:2])
            tokens, prediction = torch.cat([part[0] for part in told]), joined([part[1] for part in told])
        return prediction.scatter(going.places, going.rows), going.after(tokens, done, cache)

    def _foresee(self, carry: TokenCarry, done: Tensor, draws: Draws) -> tuple[Tensor, Prediction, Cache]:
        """Next tokens of these rows, what is told of them, and the cache behind them."""
        nets, blank = self.nets, carry.blank
        cache = carry.cache
        if cache is None:
            cache = nets.prefill(carry.obs, carry.actions, carry.present, blank)
        elif cache.length != carry.filled:  # another step went on from here
            cache = replace(cache.copy(), length=carry.filled)
        slots = nets.advance(cache, carry.obs[:, -1], done, carry.present, blank)
        logits = nets.first_logits(slots)
        if self.layout.parallel:
            tokens = self._pick(logits, draws.uniform, draws.speaker)
        else:
            every, drawn = [logits[..., 0, :]], []
            for number in range(self.layout.tokens):
                uniform = None if draws.uniform is None else draws.uniform[..., number]
                drawn.append(self._pick(every[number], uniform, draws.speaker))
                if number + 1 < self.layout.tokens:
                    every.append(nets.next_logits(nets.follow(cache, drawn[number], blank)))
            logits, tokens = torch.stack(every, dim=-2), torch.stack(drawn, dim=-1)
        return tokens, self._prediction(tokens, logits, nets.told(slots), draws.speaker, carry.present), cache

    def _pick(self, logits: Tensor, uniform: Tensor | None, speaker: Tensor) -> Tensor:
        """Where a uniform number falls in the odds that the speaker gives, or the likeliest of all members."""
        odds = logits.softmax(-1)
        if uniform is None:
            return odds.mean(0).argmax(-1)
        odds = odds[speaker, torch.arange(len(speaker), device=speaker.device)]
        return (odds.cumsum(-1) <= uniform.unsqueeze(-1)).sum(-1).clamp(max=self.layout.vocabulary - 1)

    def _prediction(
        self, tokens: Tensor, logits: Tensor, told: Told, speaker: Tensor, present: Annotated[Tensor, "row agent"]
    ) -> Prediction:
        facts, row = self.facts, torch.arange(len(speaker), device=speaker.device)
        next_obs = facts.spread_out(self._agreed(self.tokenizer.decode(tokens), facts, present))
        means = self._agreed(self.tokenizer.blend(logits.softmax(-1)), facts, present)
        rewards = losses.expected_symlog(told.rewards, self.centres)
        if self.team_rewards:
            rewards = _over(rewards, present).expand_as(rewards)
        doubts = self._doubts(tokens, logits, told, speaker)
        spread = Spread(means, rewards, None, None, facts.change_std, facts.reward_std, doubts)
        ended = torch.zeros_like(present)
        if told.end is not None:
            ended = (_over(told.end.sigmoid().mean(0), present) > 0.5).expand_as(present)
        avail = None if told.avail is None else self._legal(told.avail.sigmoid().mean(0))
        return Prediction(next_obs, rewards[speaker, row], ended, spread, next_avail_actions=avail)

    def _doubts(self, tokens: Tensor, logits: Tensor, told: Told, speaker: Tensor) -> TokenSpread:
        each = losses.entropy(logits).mean(0) / math.log(self.layout.vocabulary)
        spoken = logits[speaker, torch.arange(len(speaker), device=speaker.device)]
        odds = told.rewards.softmax(-1)
        mean = (odds * self.centres).sum(-1)
        variance = ((odds * self.centres.square()).sum(-1) - mean.square()).clamp(min=0.0)
        again = self.tokenizer.encode(self.tokenizer.decode(tokens))
        return TokenSpread(
            entropy=each.mean(-1),
            first_entropy=each[..., 0],
            surprisal=losses.token_nll(spoken, tokens).sum(-1),
            information=losses.mutual_information(logits).mean(-1),
            reward_deviation=variance.mean(0).sqrt(),
            cycle=(again != tokens).to(each.dtype).mean(-1),
        )

    def _legal(self, odds: Annotated[Tensor, "row agent choice"]) -> Annotated[Tensor, "row agent choice"]:
        """Choices that are likely allowed, and the likeliest in any case, so that there is one."""
        odds = odds.masked_fill(~self.act_present, -1.0)
        likeliest = odds == odds.amax(-1, keepdim=True)
        return (odds > 0.5) | likeliest

    def _agreed(self, obs: Obs, facts: Facts, present: PerAgent) -> Annotated[Tensor, "*lead coordinate"]:
        """Joint coordinates in raw units; of what several agents see, the mean of those who are there."""
        mean, std = self._scale(facts)
        flat = (obs * std + mean).flatten(-2)
        known = facts.place >= 0
        weights = (present.unsqueeze(-1) & self.tokenizer.present).flatten(-2)[..., known].to(flat.dtype)
        place, shape = facts.place[known], (*flat.shape[:-1], facts.coordinates)
        total = flat.new_zeros(shape).index_add_(-1, place, flat[..., known] * weights)
        count = flat.new_zeros(*weights.shape[:-1], facts.coordinates).index_add_(-1, place, weights)
        return total / count.clamp(min=1.0)

    def _scale(self, facts: Facts) -> tuple[Annotated[Tensor, "agent obs"], Annotated[Tensor, "agent obs"]]:
        """Mean and deviation of what each agent sees."""
        present = self.tokenizer.present
        return facts.spread_out(facts.obs_mean), facts.spread_out(facts.obs_std).masked_fill(~present, 1.0)

    def _standardised(self, obs: Obs) -> Obs:
        mean, std = self._scale(self.facts)
        return (obs - mean) / std * self.tokenizer.present

    def _act_tokens(self, actions: Tensor) -> Annotated[Tensor, "*lead agent token"]:
        if self.spec.discrete:
            return actions.unsqueeze(-1)
        share = (actions.clamp(-1.0, 1.0) + 1) / 2 * self.config.action_bins
        return share.floor().clamp(max=self.config.action_bins - 1).long() * self.act_present

    def _context(self, history: History | None, now: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens of the recorded steps before, `[row, time, agent, token]`, and how many at the front never were."""
        if history is None:
            empty = now.new_zeros(len(now), 0, self.spec.n_agents, self.layout.act_tokens)
            return now[:, :0], empty, None
        seen, done = torch.split(history.transpose(1, 2), [self.spec.obs_dim, self.spec.act_dim], dim=-1)
        blank = (~history.ne(0).any(-1).any(1)).int().cumprod(-1).sum(-1)
        actions = self._act_tokens((done * self.act_present).argmax(-1) if self.spec.discrete else done)
        return self.tokenizer.encode(self._standardised(seen)), actions, blank

    @property
    def centres(self) -> Annotated[Tensor, "choice"]:
        """Middles of the reward's classes, on the symlog scale."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    @property
    def _named(self) -> tuple[str, ...]:
        return ("reconstruction", "commitment", "tokens", "rewards", "terminations", "avail_actions")

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        """Dropout from this learner's own generator, instead of torch's global one."""
        if not self.config.dropout:
            yield
            return
        seed = int(torch.randint(2**62, (1,), generator=self.generator, device=self.generator.device))
        devices = [self.edges.device] if self.edges.is_cuda else []
        self.nets.train()
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            yield
        self.nets.eval()

    def _clip(self, *_: Any) -> None:
        """Keep the tokenizer's gradient, and each member's, below the largest norm allowed, just before a step."""
        limit = self.config.grad_clip
        if not limit:
            return
        if self.updates <= self.tokenizer_steps:
            nn.utils.clip_grad_norm_(self.tokenizer.parameters(), limit, foreach=True)
        else:
            clip_by_member(self.nets.parameters(), limit)


def make_tokenizer(config: MarieConfig, facts: Facts) -> Tokenizer:
    """The tokenizer of standardised observations that a config asks for."""
    dims = facts.spec.obs_dims
    if config.tokenizer == "vq":
        return VectorQuantizer(
            dims,
            config.tokens,
            config.vocabulary,
            config.code_width,
            config.hidden,
            decay=config.code_decay,
            commitment=config.commitment,
        )
    if config.tokenizer == "fsq":
        return FiniteScalarQuantizer(dims, config.tokens, config.levels, config.hidden)
    low, high = (facts.spread_out((border - facts.obs_mean) / facts.obs_std) for border in (facts.low, facts.high))
    return BinTokenizer(dims, config.vocabulary, low, high)


def layout_of(config: MarieConfig, spec: Spec, tokenizer: Tokenizer, terminates: bool) -> Layout:
    """Sizes of the transformers for a task."""
    return Layout(
        n_agents=spec.n_agents,
        tokens=tokenizer.tokens,
        vocabulary=tokenizer.vocabulary,
        act_tokens=1 if spec.discrete else spec.act_dim,
        act_vocabulary=spec.act_dim if spec.discrete else config.action_bins,
        choices=spec.act_dim if spec.discrete else 0,
        reward_bins=config.reward_bins,
        terminates=terminates,
        steps=config.length,
        parallel=config.decoding == "parallel",
    )


def alike(*statistics: Annotated[Tensor, "agent"]) -> bool:
    """Whether all agents' numbers are the same, as those of a team's rewards."""
    return all(bool((numbers == numbers[0]).all()) for numbers in statistics)


def _over(values: PerAgent, present: PerAgent) -> Annotated[Tensor, "*lead one"]:
    """Mean over the agents that are there."""
    weights = present.to(values.dtype)
    return (values * weights).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True).clamp(min=1)


def _binary(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
