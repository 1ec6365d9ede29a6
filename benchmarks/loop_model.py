"""An ensemble of dynamics models the plain way: a network, an optimiser and a turn for each member.

The yardstick of speed_models.py. Inputs, losses and units are those of `offline_marl.worldmodels.ensemble` at its
defaults; an imagined step asks one elite after another, and the covariance over elites is taken row by row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from offline_marl.core.types import Batch, Policy
from offline_marl.worldmodels.facts import Facts
from offline_marl.worldmodels.rollout import Caution


class LoopEnsemble:
    """Members of kind gaussian, for continuous actions and agents of equal widths.

    Args:
        facts: Statistics of the data.
        members: Networks to train.
        elites: The first so many are asked for steps.
        hidden: Width of both hidden layers.
        lr: Step size.
        clip: Largest gradient norm of a member.
    """

    def __init__(
        self, facts: Facts, members: int = 7, elites: int = 5, hidden: int = 256, lr: float = 1e-3, clip: float = 1.0
    ) -> None:
        self.facts, self.elites, self.clip = facts, elites, clip
        self.coordinates, self.agents = facts.coordinates, facts.spec.n_agents
        inputs = facts.coordinates + sum(facts.spec.act_dims)
        outputs = 2 * (self.coordinates + self.agents) + facts.terminates
        self.members = [
            nn.Sequential(
                nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, outputs)
            )
            for _ in range(members)
        ]
        self.optimizers = [torch.optim.Adam(member.parameters(), lr=lr) for member in self.members]

    def inputs(self, joint: Tensor, actions: Tensor) -> Tensor:
        return torch.cat([(joint - self.facts.obs_mean) / self.facts.obs_std, actions.flatten(1)], -1)

    def read(self, out: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Means, log-stds and the termination's logit."""
        numbers = self.coordinates + self.agents
        mean, raw = out[:, :numbers], out[:, numbers : 2 * numbers]
        logit = out[:, -1] if self.facts.terminates else None
        return mean, -5.0 + 7.0 * torch.sigmoid(raw + torch.log(torch.tensor(2.5))), logit

    def update(self, batch: Batch) -> Tensor:
        """One step of each member on its own rows; returns the loss, mean over members."""
        losses = []
        for number, member in enumerate(self.members):
            losses.append(self.loss(member, batch.map(lambda value, at=number: value[at])))
            self.optimizers[number].zero_grad()
            losses[-1].backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(member.parameters(), self.clip)
            self.optimizers[number].step()
        return torch.stack(losses).mean().detach()

    def loss(self, member: nn.Module, batch: Batch) -> Tensor:
        facts = self.facts
        now, after = facts.join(batch.obs), facts.join(batch.next_obs)
        moved = (after - now - facts.change_mean) / facts.change_std
        paid = (batch.rewards - facts.reward_mean) / facts.reward_std
        mean, log_std, logit = self.read(member(self.inputs(now, batch.actions)))
        likelihood = torch.distributions.Normal(mean, log_std.exp()).log_prob(torch.cat([moved, paid], -1))  # type: ignore[no-untyped-call]
        loss: Tensor = -(likelihood * log_std.detach().exp()).mean()  # beta 0.5
        if logit is not None:
            ended = batch.terminations.all(-1).to(logit.dtype)
            loss = loss + nn.functional.binary_cross_entropy_with_logits(logit, ended)
        return loss

    @torch.no_grad()
    def step(self, obs: Tensor, actions: Tensor, speakers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Next obs and rewards of the elite named for each row, terminations by majority, and the disagreement.

        That is the norm of the covariance over elites, and the variance of their team reward.
        """
        facts, joint = self.facts, self.facts.join(obs)
        scale, shift = (
            torch.cat([facts.change_std, facts.reward_std]),
            torch.cat([facts.change_mean, facts.reward_mean]),
        )
        said, votes = [], torch.zeros(len(obs))
        for member in self.members[: self.elites]:
            mean, _, logit = self.read(member(self.inputs(joint, actions)))
            numbers = mean * scale + shift
            numbers[:, : self.coordinates] += joint
            said.append(numbers)
            if logit is not None:
                votes += (logit > 0).float()
        every = torch.stack(said)
        doubts = torch.stack([torch.linalg.matrix_norm(torch.cov(every[:, row].T)) for row in range(len(obs))])
        chosen = every[speakers, torch.arange(len(obs))]
        next_obs = facts.spread_out(chosen[:, : self.coordinates])
        variance = every[:, :, self.coordinates :].mean(-1).var(0)
        return next_obs, chosen[:, self.coordinates :], votes > self.elites / 2, doubts, variance

    @torch.no_grad()
    def rollout(self, policy: Policy, starts: Batch, horizon: int, caution: Caution) -> dict[str, Tensor]:
        """What the policy meets from each start, `row time`; rows go on after their end, which `alive` tells."""
        facts, obs, alive = self.facts, starts.obs, torch.ones(len(starts), dtype=torch.bool)
        low, high = facts.spread_out(facts.low), facts.spread_out(facts.high)
        steps: dict[str, list[Tensor]] = {}
        for _ in range(horizon):
            actions = policy.act(obs, explore=True)
            next_obs, rewards, ended, doubts, variance = self.step(obs, actions, self.speakers(len(obs)))
            next_obs = next_obs.clamp(low, high)
            lost = caution.weight * doubts.clamp(max=caution.cutoff) + caution.reward_weight * variance
            rewards = rewards.clamp(facts.reward_low, facts.reward_high) - lost.unsqueeze(-1)
            found = {"obs": obs, "actions": actions, "rewards": rewards, "next_obs": next_obs, "spread": doubts}
            for name, value in {**found, "terminations": ended & alive, "alive": alive}.items():
                steps.setdefault(name, []).append(value)
            alive = alive & ~ended & (doubts <= caution.cutoff)
            obs = next_obs
        return {name: torch.stack(values, 1) for name, values in steps.items()}

    def speakers(self, count: int) -> Tensor:
        return torch.randint(self.elites, (count,))
