"""An ensemble of probabilistic networks (Chua et al., 2018; Janner et al., 2019) over the whole team's world.

K networks, each from (joint observation, joint action) to normals of every coordinate's change and every agent's
reward, and to the odds that the episode terminates; the few of least held-out error, the elites, speak.
Departs from MOMA-PPO's code (Barde et al., 2024): one network with all heads per member instead of three;
standardised inputs and targets; the change is predicted instead of the next observation; the likelihood is a mean
over numbers, coordinates and rewards alike; log-stds are bounded softly; the gradient is clipped by member, so that
members stay independent; one termination for the team; the majority of elites decides it.
Paper: arXiv 2305.17198.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from offline_marl.core.axes import PerAgent
from offline_marl.core.fields import Count, Share
from offline_marl.core.learner import clip_by_member
from offline_marl.core.types import Batch, History, Metrics, Needs, Obs
from offline_marl.losses import dynamics
from offline_marl.worldmodels.base import PerMember, Prediction, Spread, WorldModelConfig, worldmodels
from offline_marl.worldmodels.ensemble_model import EnsembleModel
from offline_marl.worldmodels.facts import Facts, Joint
from offline_marl.worldmodels.members import Activation, Kind, MemberRow, Members, Out, head_of


class EnsembleConfig(WorldModelConfig):
    """Fields of the common base and those of the ensemble."""

    members: Count = 7
    """Independent networks, each trained on its own rows."""
    elites: Count = 5
    """Members of least held-out error, which alone are asked afterwards."""
    kind: Kind = "gaussian"
    """What a member tells: a normal per number, a mixture of normals, a bare number, or a variational autoencoder."""
    activation: Activation = "silu"
    """What follows each hidden layer."""
    predict: Literal["change", "absolute"] = "change"
    """Predict how far each coordinate moves, or, as published, where it goes."""
    predict_by: Literal["mean", "sample"] = "mean"
    """What an elite says: the mean of what it tells, or a draw from it (of its latent, component and normals)."""
    beta: Share = 0.5
    """Weight std^(2 beta) of the likelihoods of kind gaussian and vae; 0 is the plain one, as published."""
    components: Count = 5
    """Normals in a mixture."""
    latent: Count = 16
    """Count of an autoencoder's latent; the published 256 is far wider than what narrow tasks leave open."""
    spectral_norm: bool = False
    """Keep every hidden layer's largest singular value at most 1, so that members extrapolate gently."""

    @model_validator(mode="after")
    def _no_more_elites_than_members(self) -> EnsembleConfig:
        if self.elites > self.members:
            raise ValueError(f"There cannot be more elites ({self.elites}) than members ({self.members})")
        return self


@worldmodels.register("ensemble")
class Ensemble(EnsembleModel):
    """Maximises log p_k(change, rewards, termination | joint obs, joint actions) in each of K batched members.

    Members disagree where they met few rows of data; that disagreement is the prediction's spread.
    """

    Config: ClassVar[type[WorldModelConfig]] = EnsembleConfig
    needs = Needs(next_obs=False)
    config: EnsembleConfig
    elites: Tensor
    act_columns: Tensor
    choices: Tensor

    def __init__(self, config: EnsembleConfig, facts: Facts) -> None:
        super().__init__(config, facts, config.members)
        self.grad_clip = 0.0  # one norm over all members would let one's rows reach another: see `_clip`
        self.register_buffer("elites", torch.arange(config.elites))
        self.register_buffer("act_columns", facts.spec.present("act").flatten().nonzero().squeeze(-1), persistent=False)
        self.register_buffer("choices", torch.arange(facts.spec.act_dim), persistent=False)
        self.head = head_of(config.kind, facts.coordinates, facts.spec.n_agents, config.components, config.beta)
        self.nets = Members(
            config.members,
            facts.coordinates + len(self.act_columns),
            self.head,
            terminates=facts.terminates,
            hidden=config.hidden,
            activation=config.activation,
            latent=config.latent if config.kind == "vae" else 0,
            window=config.window,
            memory=config.history_encoder,
            spectral_norm=config.spectral_norm,
        )
        self.remember("nets")
        self.optimize("nets", lr=config.lr)
        self.optimizer.register_step_pre_hook(self._clip)
        # In a tuple, where torch does not take them for a part of this module.
        self._elite_copy: tuple[Members, ...] = ()

    def update(self, batch: Batch) -> Metrics:
        """One step of every member up the likelihood of its own rows; lead axes [member, batch]."""
        facts = self.facts
        joint, history = self._read(facts, batch)
        target = self._targets(facts, joint, batch)
        counts = self._counts(facts, batch)
        if counts is not None:
            target = target.masked_fill(~counts, 0.0)  # an autoencoder reads it
        x, frames = self._inputs(facts, joint, batch.actions, history)
        out, logit, divergence = self.nets.learn(x, frames, target, self.generator)
        mean = functools.partial(counted_mean, mask=batch.mask)
        by_obs, by_rewards = self._means(self.head.losses(out, target, counts), counts)
        parts = {"loss/next_obs": by_obs / self.head.parts[0], "loss/rewards": by_rewards / self.head.parts[1]}
        ended = torch.zeros_like(by_obs)
        if logit is not None:
            ended = mean(dynamics.termination_nll(logit, batch.team_terminations))
        parts["loss/terminations"] = ended
        loss = (by_obs + by_rewards) / self.head.numbers + ended
        if divergence is not None:
            parts["loss/latent"] = mean(divergence) / self.head.numbers
            loss = loss + parts["loss/latent"]
        self.descend(loss.sum())
        self.nets.contract()
        self._elite_copy = ()
        return {name: value.detach().mean() for name, value in {"loss/model": loss, **parts}.items()}

    @torch.no_grad()
    def predict(self, obs: Obs, actions: Tensor, history: History | None = None) -> Prediction:
        """The mean of one elite, drawn for each row, or a draw; an episode terminates where most elites predict it."""
        facts, lead = self.facts, obs.shape[:-2]
        joint = facts.join(obs)
        out, logit = self._forward(self._elite_nets(), facts, joint, actions, history)
        expected, std = self.head.moments(out)
        zero, scale = self._units(facts)
        expected = torch.addcmul(zero, expected.view(-1, *lead, self.head.numbers), scale)
        if self.config.predict == "change":
            expected[..., : facts.coordinates] += joint
        next_obs, rewards = torch.split(expected, self.head.parts, dim=-1)
        next_obs_std, rewards_std = None, None
        if std is not None:
            next_obs_std, rewards_std = torch.split(std.view_as(expected) * scale, self.head.parts, dim=-1)
        spread = Spread(next_obs, rewards, next_obs_std, rewards_std, facts.change_std, facts.reward_std)
        elite = torch.randint(len(expected), (1, *lead, 1), generator=self.generator, device=obs.device)
        if self.config.predict_by == "sample":
            drawn = self._draw(elite.flatten(), out, facts, joint, actions, history)
        else:
            drawn = expected.gather(0, elite.expand(1, *lead, self.head.numbers))[0]
        next_obs, rewards = torch.split(drawn, self.head.parts, dim=-1)
        if logit is None:
            ended = torch.zeros(lead, dtype=torch.bool, device=obs.device)
        else:
            ended = 2 * logit.gt(0).sum(0).view(lead) > len(logit)
        return Prediction(facts.spread_out(next_obs), rewards, ended.unsqueeze(-1).expand_as(rewards), spread)

    def _draw(
        self,
        elite: Annotated[Tensor, "row"],
        out: Out,
        facts: Facts,
        joint: Joint,
        actions: Tensor,
        history: History | None,
    ) -> Annotated[Tensor, "*lead number"]:
        """What each row's elite might say, in raw units; spreads stay those of means, at the latent's mean."""
        if self.nets.latent:
            out, _ = self._forward(self._elite_nets(), facts, joint, actions, history, self.generator)
        chosen = out[elite, torch.arange(len(elite), device=out.device)].unsqueeze(0)
        zero, scale = self._units(facts)
        numbers = self.head.draw(chosen, self.generator)[0].view(*joint.shape[:-1], self.head.numbers)
        drawn = torch.addcmul(zero, numbers, scale)
        if self.config.predict == "change":
            drawn[..., : facts.coordinates] += joint
        return drawn

    @torch.no_grad()
    def errors(self, batch: Batch) -> PerMember:
        facts = self.facts
        joint, history = self._read(facts, batch)
        out, _ = self._forward(self.nets, facts, joint, batch.actions, history)
        error = self.head.moments(out)[0] - self._targets(facts, joint, batch)
        if self.config.predict == "absolute":
            error[..., : facts.coordinates] *= facts.obs_std / facts.change_std
        counts = self._counts(facts, batch)
        if counts is None:
            return counted_mean(error.square().mean(-1), batch.mask).sqrt()
        return ((error.square() * counts).sum((-2, -1)) / counts.sum((-2, -1)).clamp(min=1)).sqrt()

    def choose(self, errors: PerMember) -> None:
        self.elites.copy_(errors.argsort(stable=True)[: len(self.elites)])
        self._elite_copy = ()

    def restore_best(self) -> None:
        super().restore_best()
        self._elite_copy = ()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self._elite_copy = ()

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._elite_copy = ()
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _elite_nets(self) -> Members:
        if not self._elite_copy:
            self._elite_copy = (self.nets.only(self.elites),)
        return self._elite_copy[0]

    def _forward(
        self,
        nets: Members,
        facts: Facts,
        joint: Joint,
        actions: Tensor,
        history: History | None,
        generator: torch.Generator | None = None,
    ) -> tuple[Out, MemberRow | None]:
        """Outputs of some members for the same rows, all leading axes merged into one."""
        x, frames = self._inputs(facts, joint, actions, history)
        rows = x.reshape(-1, x.shape[-1])
        count = nets.members
        if frames is not None:
            frames = frames.reshape(-1, *frames.shape[-2:]).expand(count, -1, -1, -1)
        outputs: tuple[Out, MemberRow | None] = nets(rows.expand(count, -1, -1), frames, generator)
        return outputs

    def _read(self, facts: Facts, batch: Batch) -> tuple[Joint, History | None]:
        """Joint observation and history of recorded rows, as networks read them where agents are away."""
        return facts.join(facts.filled(batch.obs, batch.mask)), facts.filled_history(batch.history, batch.mask)

    def _inputs(
        self, facts: Facts, joint: Joint, actions: Tensor, history: History | None
    ) -> tuple[Annotated[Tensor, "*lead feature"], Annotated[Tensor, "*lead window frame"] | None]:
        """Standardised joint observation beside the joint action: of now, and of each step of the past."""
        if self.spec.discrete:
            actions = (actions.unsqueeze(-1) == self.choices).to(joint.dtype)
        else:
            actions = actions.clamp(-1.0, 1.0)
        x = torch.cat([(joint - facts.obs_mean).div_(facts.obs_std), self._joint_actions(actions)], dim=-1)
        if not self.window or history is None:
            return x, None
        seen, done = torch.split(history.transpose(-3, -2), [self.spec.obs_dim, self.spec.act_dim], dim=-1)
        past = torch.cat([(facts.join(seen) - facts.obs_mean) / facts.obs_std, self._joint_actions(done)], dim=-1)
        happened = history.ne(0).any(-1).any(-2).unsqueeze(-1)
        return x, past * happened

    def _joint_actions(self, actions: Annotated[Tensor, "*lead agent act"]) -> Annotated[Tensor, "*lead act"]:
        flat = actions.flatten(-2)
        return flat if len(self.act_columns) == flat.shape[-1] else flat.index_select(-1, self.act_columns)

    def _units(self, facts: Facts) -> tuple[Annotated[Tensor, "number"], Annotated[Tensor, "number"]]:
        """What the members' zero and one stand for: in changes or coordinates, and then in rewards."""
        if self.config.predict == "change":
            zero, one = facts.change_mean, facts.change_std
        else:
            zero, one = facts.obs_mean, facts.obs_std
        return torch.cat([zero, facts.reward_mean]), torch.cat([one, facts.reward_std])

    def _targets(self, facts: Facts, joint: Joint, batch: Batch) -> Annotated[Tensor, "*lead number"]:
        after = facts.join(batch.next_obs)
        if self.config.predict == "change":
            after = after - joint
        zero, one = self._units(facts)
        return torch.cat([after, batch.rewards], dim=-1).sub_(zero).div_(one)

    def _counts(self, facts: Facts, batch: Batch) -> Annotated[Tensor, "*lead number"] | None:
        """Bool: numbers of agents that are there, coordinates only where it is known what came next; None for all."""
        if batch.mask is None and batch.next_seen is None:
            return None
        there = torch.ones_like(batch.terminations) if batch.mask is None else batch.mask
        seen = there if batch.next_seen is None else there & batch.next_seen
        return torch.cat([facts.counts(seen), there], dim=-1)

    def _means(self, losses: tuple[MemberRow, MemberRow], counts: Tensor | None) -> tuple[PerMember, PerMember]:
        """Means over rows of losses that are summed over their numbers; over the numbers that count, times all."""
        if counts is None:
            return losses[0].mean(-1), losses[1].mean(-1)
        known = torch.split(counts, self.head.parts, dim=-1)
        first, second = (
            loss.sum(-1) / count.sum((-2, -1)).clamp(min=1) * numbers
            for loss, count, numbers in zip(losses, known, self.head.parts, strict=True)
        )
        return first, second

    def _clip(self, *_: Any) -> None:
        """Scale each member's gradient down to the largest norm allowed, just before a step."""
        if self.config.grad_clip:
            clip_by_member(self.nets.parameters(), self.config.grad_clip)


def counted_mean(values: Annotated[Tensor, "member row"], mask: PerAgent | None) -> PerMember:
    """Mean over the rows in which some agent counts; over all of them without a mask."""
    if mask is None:
        return values.mean(-1)
    weights = mask.any(-1).to(values.dtype)
    return (values * weights).sum(-1) / weights.sum(-1).clamp(min=1)
