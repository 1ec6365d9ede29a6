"""MARIE's token world model (Zhang et al., 2024), fitted to recorded data: observations as tokens, told one by one.

Departs from the published code: fitted in two phases, the tokenizer first, which then stays; by default tokens tell
what a small regression of the step misses; several small members on one tokenizer; context before an imagined start,
and more steps than positions; tokens of a step marked by slot and owner; a next observation at every step; rewards and
ends agreed by the agents, and one number for all who see it; ends drawn; what is allowed read beside what is seen then.
Paper: arXiv 2406.15836.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from offline_marl.core.acting.history import newest
from offline_marl.core.axes import PerAgent
from offline_marl.core.learner import clip_by_member
from offline_marl.core.types import Batch, Metrics, Needs
from offline_marl.networks.transformer import Cache
from offline_marl.worldmodels.base import (
    PerMember,
    Phase,
    Prediction,
    Spread,
    Work,
    WorldModel,
    WorldModelConfig,
    worldmodels,
)
from offline_marl.worldmodels.facts import Facts
from offline_marl.worldmodels.token_carry import Draws, TokenCarry, joined, recorded_steps
from offline_marl.worldmodels.token_codec import Codec
from offline_marl.worldmodels.token_config import MarieConfig, layout_of, make_reward_told, make_tokenizer
from offline_marl.worldmodels.token_cost import TRAINED, model_multiplications, step_multiplications
from offline_marl.worldmodels.token_guess import Guess
from offline_marl.worldmodels.token_losses import segment_losses
from offline_marl.worldmodels.token_members import TokenMembers, Told
from offline_marl.worldmodels.token_predictions import agreed, doubts, drawn, legal


@worldmodels.register("marie")
class Marie(WorldModel):
    """Minimises -log p of next tokens, rewards, ends and available choices in transformers over each agent's tokens."""

    Config: ClassVar[type[WorldModelConfig]] = MarieConfig
    needs = Needs(view="segments", next_obs=False)
    foresees = frozenset({"avail_actions"})
    held_out_rows = 1_024
    config: MarieConfig
    act_present: Tensor
    shared_obs: Tensor | None

    def __init__(self, config: MarieConfig, facts: Facts) -> None:
        super().__init__(config, facts)
        spec = facts.spec
        self.members = config.members
        self.needs = replace(self.needs, length=config.length)
        self.grad_clip = 0.0  # clipped by member: see `_clip`
        self.team_rewards = spec.n_agents > 1 and facts.team_rewards
        self.register_buffer("act_present", spec.present("act"), persistent=False)
        # Once, as a look at a GPU's tensor in every imagined step would wait for it.
        self.register_buffer("shared_obs", facts.shared if bool(facts.shared.any()) else None, persistent=False)
        self.tokenizer = make_tokenizer(config, facts)
        self.reward_told = make_reward_told(config, facts)
        self.layout = layout_of(config, spec, self.tokenizer, self.reward_told.numbers, facts.terminates)
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
        self.guess = Guess(config.members, facts, self.layout.exact, config.guess) if self.layout.exact else None
        self._has_first_phase = bool(list(self.tokenizer.parameters())) or self.guess is not None
        self.tokenizer_steps = config.tokenizer_steps if self._has_first_phase else 0
        self.first_look = self.first_look_of(config)
        self.shared = ("tokenizer",) if self.guess is None else ("tokenizer", "guess")
        self.remember(*self.shared, "nets")
        self.optimize("tokenizer", "nets", lr=config.lr)
        if self.guess is not None:
            self.optimize("guess", lr=config.lr, name="guess", cosine_steps=config.tokenizer_steps)
        self.optimizer.register_step_pre_hook(self._clip)
        self._tokenizing = False

    @classmethod
    def first_look_of(cls, config: MarieConfig) -> int:
        """The first update of the second phase, of fits that have two."""
        alone = config.tokenizer == "bins" and config.tokens_of == "observations"
        return 0 if alone or not config.tokenizer_steps else config.tokenizer_steps + 1

    @property
    def phases(self) -> tuple[Phase, ...]:
        return ("tokenizer", "model") if self._has_first_phase else ("model",)

    def multiplications(self, work: Work) -> float:
        """Counted from the sizes (token_cost.py)."""
        config, rows = self.config, self.config.batch_size
        sizes = (self.layout, config.members, config.width, config.layers, config.perceiver_layers)
        if work == "model":
            return model_multiplications(*sizes, rows)
        coder = self.spec.n_agents * sum(p.numel() for p in self.tokenizer.parameters())
        guess = sum(p.numel() for p in self.guess.parameters()) if self.guess else 0
        if work == "step":  # decoded, and encoded again
            return step_multiplications(*sizes) + guess + coder
        return float(TRAINED * rows * (config.length * guess + (config.length + 1) * coder))

    def learn(self, phase: Phase, batch: Batch) -> Metrics:
        """One update of the tokenizer and of the guess, or of the transformers, whatever came before."""
        return self._learn(batch, phase == "tokenizer")

    def update(self, batch: Batch) -> Metrics:
        """One step of the tokenizer, or, once it has had its updates, of every transformer on the same segments."""
        return self._learn(batch, self.updates < self.tokenizer_steps)

    def _learn(self, batch: Batch, tokenizing: bool) -> Metrics:
        self._tokenizing = tokenizing
        cuts = batch if batch.rewards.dim() == 3 else batch.map(lambda value: value.unsqueeze(1))
        there = torch.ones_like(cuts.terminations) if cuts.mask is None else cuts.mask
        seen = there if cuts.next_seen is None else there & cuts.next_seen
        after = seen if cuts.next_present is None else seen | cuts.next_present
        now, following = self.facts.filled(cuts.obs, cuts.mask), self.facts.filled(cuts.next_obs, after)
        obs = torch.cat([now[:, :1], following], dim=1)
        exact = self.codec.exact(now, cuts.actions)
        if tokenizing:
            loss, parts = self._tokenizer_step(cuts, obs, exact, there, seen)
        else:
            tokens, following = self.codec.encode(obs, exact), self.codec.standardised(following)
            parts = self._losses(cuts, tokens, exact, following, there, seen)
            loss = torch.stack(list(parts.values())).sum()
            self.descend(loss)
        # Per member, like an ensemble's; names are the same in both phases.
        told = {name: value.detach() for name, value in parts.items()}
        zero = torch.zeros_like(loss.detach())
        return {"loss/model": loss.detach()} | {f"loss/{name}": told.get(name, zero) for name in self._named}

    def _tokenizer_step(
        self, cuts: Batch, obs: Tensor, exact: Tensor | None, there: PerAgent, seen: PerAgent
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of the guess and of the tokenizer; the sum of their losses, and each."""
        parts: dict[str, Tensor] = {}
        if self.guess is not None and exact is not None:
            changes = self.facts.join(cuts.next_obs) - self.facts.join(cuts.obs)
            counts = torch.cat([self.facts.counts(seen), there], dim=-1)
            parts["guess"] = self.guess.learn(exact, changes, cuts.rewards, counts)
            self.descend(parts["guess"], "guess")
        with torch.no_grad():
            given = self.codec.given(obs, exact)
        counts = torch.cat([there[:, :1], seen], dim=1)
        learnt = self.tokenizer.learn(given, counts, self.generator)
        if learnt:
            self.descend(torch.stack(list(learnt.values())).sum())
        else:
            self.updates += 1
        parts |= learnt
        return torch.stack(list(parts.values())).sum(), parts

    def _losses(
        self,
        cuts: Batch,
        tokens: Tensor,
        exact: Tensor | None,
        following: Tensor,
        there: PerAgent,
        seen: PerAgent,
    ) -> dict[str, Tensor]:
        """Sums over members of each one's mean losses."""
        with self.nets.dropping(self.generator):
            logits, told = self.nets(tokens, self._act_tokens(cuts.actions), there, exact, following)

        with torch.no_grad():
            values = self.codec.reward_values(cuts.rewards, exact)
        of_rewards = self.reward_told.losses(told.rewards, values)
        mean_choices = self.config.ce_for_av
        return segment_losses(
            logits, told, tokens[:, 1:], of_rewards, cuts, there, seen, self.act_present, mean_choices
        )

    @torch.no_grad()
    def begin(self, starts: Batch) -> TokenCarry:
        """Tokens of the starts and of the steps that were recorded before them."""
        rows, device = len(starts.obs), starts.obs.device
        present = starts.mask
        if present is None:
            present = torch.ones(rows, self.spec.n_agents, dtype=torch.bool, device=device)
        present = present | ~present.any(-1, keepdim=True)  # of a row without agents nobody reads anything
        codec, facts = self.codec, self.facts
        obs = facts.filled(starts.obs, starts.mask)
        past = newest(starts.history, self.window)
        seen, done, blank = recorded_steps(facts.filled_history(past, starts.mask), obs, self.spec)
        exact = codec.exact(seen, done)
        return TokenCarry(
            obs=codec.encode(torch.cat([seen, obs.unsqueeze(1)], dim=1), exact, blank),
            actions=self._act_tokens(done),
            blank=blank,
            present=present,
            places=torch.arange(rows, device=device),
            rows=rows,
            now=None if exact is None else obs,
            exact=exact,
            still=codec.still,
            there=None if past is None or starts.mask is None else facts.there(past).transpose(1, 2),
        )

    @torch.no_grad()
    def step(self, carry: TokenCarry, actions: Tensor) -> tuple[Prediction, TokenCarry]:
        """Tokens and ends drawn from what one member tells of each row, its reward too; what all tell is the spread.

        Args:
            carry: From `begin` or the step before.
            actions: What the agents do; continuous ones are clamped into [-1, 1].
        """
        shape = (carry.rows, self.spec.n_agents, self.layout.tokens)
        uniform = torch.rand(shape, generator=self.generator, device=actions.device)
        speaker = torch.randint(self.members, (carry.rows,), generator=self.generator, device=actions.device)
        ends = None
        if self.layout.terminates:
            ends = torch.rand(carry.rows, generator=self.generator, device=actions.device)
        return self._stepped(carry, actions, Draws(uniform, speaker, ends))

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
        shown = self.facts.filled(rows.obs, rows.mask)
        exact, given = self.codec.exact(shown.unsqueeze(1), rows.actions.unsqueeze(1)), rows.obs
        if exact is None:
            given = self.codec.standardised(given)
        else:
            given = self.codec.given(torch.stack([rows.obs, rows.next_obs], dim=1), exact)[:, 1]
            counts = counts if rows.next_seen is None else counts & rows.next_seen
        return {"tokenizer": self.tokenizer.describe(given, counts)}

    @torch.no_grad()
    def snapshot(self, improved: PerMember) -> None:
        """Remember the present weights of the members that improved, and the tokenizer, which they share."""
        for name in ("nets", *self.shared):
            best, now = (getattr(self, part).state_dict() for part in (f"best_{name}", name))
            for key, value in now.items():
                chosen = improved.to(value.device)
                chosen = chosen.any() if name in self.shared else chosen.view(-1, *[1] * (value.dim() - 1))
                best[key].copy_(torch.where(chosen, value, best[key]))

    def _stepped(self, carry: TokenCarry, actions: Tensor, draws: Draws) -> tuple[Prediction, TokenCarry]:
        going = carry.slid(self.layout.steps)
        actions = actions[going.places]
        done = self._act_tokens(actions)
        exact = None if going.now is None else self.codec.exact(self.facts.filled(going.now, going.present), actions)
        parts = torch.split(torch.arange(len(done), device=done.device), self.config.rows_at_once)
        if len(parts) <= 1:
            tokens, prediction, cache = self._foresee(going, done, exact, draws.of(going.places))
        else:
            cache, told = None, []
            bare = replace(going, cache=None)
            for part in parts:
                beside = None if exact is None else exact[part]
                told.append(self._foresee(bare.only(part), done[part], beside, draws.of(going.places[part]))[:2])
            tokens, prediction = torch.cat([part[0] for part in told]), joined([part[1] for part in told])
        following = going.after(tokens, done, cache, exact, prediction.next_obs)
        return prediction.scatter(going.places, going.rows), following

    def _foresee(
        self, carry: TokenCarry, done: Tensor, exact: Tensor | None, draws: Draws
    ) -> tuple[Tensor, Prediction, Cache]:
        """Next tokens of these rows, what is told of them, and the cache behind them."""
        nets, blank, unread, cache = self.nets, carry.blank, carry.unread, carry.cache
        if cache is None:
            cache = nets.prefill(carry.obs, carry.actions, carry.known, blank, carry.exact, unread)
        elif cache.length != carry.filled:  # another step went on from here
            cache = replace(cache.copy(), length=carry.filled)
        slots = nets.advance(cache, carry.obs[:, -1], done, carry.present, blank, exact, unread)
        logits = nets.first_logits(slots)
        if self.layout.parallel:
            tokens = drawn(logits, draws.uniform, draws.speaker)
        else:
            every, picked = [logits[..., 0, :]], []
            for number in range(self.layout.tokens):
                uniform = None if draws.uniform is None else draws.uniform[..., number]
                picked.append(drawn(every[number], uniform, draws.speaker))
                if number + 1 < self.layout.tokens:
                    every.append(nets.next_logits(nets.follow(cache, picked[number], blank, unread)))
            logits, tokens = torch.stack(every, dim=-2), torch.stack(picked, dim=-1)
        prediction = self._prediction(carry, exact, tokens, logits, nets.told(slots), draws)
        prediction = self._with_choices(prediction, nets.allowed(slots, self.codec.standardised(prediction.next_obs)))
        settled = self.codec.settled(tokens, carry.present)
        if settled is not tokens:
            cache = nets.rewrite(cache, settled, blank, unread)
        return settled, prediction, cache

    def _prediction(
        self, carry: TokenCarry, exact: Tensor | None, tokens: Tensor, logits: Tensor, told: Told, draws: Draws
    ) -> Prediction:
        """What tokens and summaries tell, but for what will be allowed."""
        facts, codec, present, speaker = self.facts, self.codec, carry.present, draws.speaker
        guessed = None if self.guess is None or exact is None else self.guess(exact)
        next_obs = facts.spread_out(codec.decode(tokens, carry.now, guessed, present))
        means = codec.blend(logits.softmax(-1), carry.now, guessed, present)
        rewards = codec.rewards(self.reward_told.expected(told.rewards), guessed)
        if self.team_rewards:
            rewards = agreed(rewards, present).expand_as(rewards)
        doubt = doubts(tokens, codec.cycled(tokens), logits, speaker, self.reward_told.deviation(told.rewards))
        spread = Spread(means, rewards, None, None, facts.change_std, facts.reward_std, doubt)
        ended = torch.zeros_like(present)
        if told.end is not None:
            odds = agreed(told.end.sigmoid().mean(0), present)
            ended = (odds > (0.5 if draws.ends is None else draws.ends.unsqueeze(-1))).expand_as(present)
        row = torch.arange(len(speaker), device=speaker.device)
        return Prediction(next_obs, rewards[speaker, row], ended, spread)

    def _with_choices(self, prediction: Prediction, logits: Tensor | None) -> Prediction:
        """With what will be allowed, where choices are ever restricted."""
        avail = None if logits is None else legal(logits.sigmoid().mean(0), self.act_present)
        return replace(prediction, next_avail_actions=avail)

    def _act_tokens(self, actions: Tensor) -> Annotated[Tensor, "*lead agent token"]:
        if self.spec.discrete:
            return actions.unsqueeze(-1)
        share = (actions.clamp(-1.0, 1.0) + 1) / 2 * self.config.action_bins
        return share.floor().clamp(max=self.config.action_bins - 1).long() * self.act_present

    @property
    def codec(self) -> Codec:
        """Raw observations as tokens, and back."""
        return Codec(self.tokenizer, self.facts, self.guess, self.shared_obs)

    @property
    def _named(self) -> tuple[str, ...]:
        named = ("reconstruction", "commitment", "tokens", "rewards", "terminations", "avail_actions")
        return named if self.guess is None else ("guess", *named)

    def _clip(self, *_: Any) -> None:
        """Keep the tokenizer's gradient, and each member's, below the largest norm allowed, just before a step."""
        limit = self.config.grad_clip
        if not limit:
            return
        if self._tokenizing:
            nn.utils.clip_grad_norm_(self.tokenizer.parameters(), limit, foreach=True)
        else:
            clip_by_member(self.nets.parameters(), limit)
