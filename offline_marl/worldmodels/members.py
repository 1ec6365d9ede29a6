"""Networks of an ensemble: all members as one batched network, in standardised units.

A member's head parametrises the distribution of the next observation and the rewards, and computes its likelihood:
one normal per number, a mixture of such, or a bare number.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from offline_marl.losses import dynamics
from offline_marl.networks.ensembles import MemberRows, StackedLinear, StackedMLP
from offline_marl.networks.inputs import MemoryKind, make_encoder

Kind = Literal["gaussian", "mixture", "deterministic", "vae"]
Activation = Literal["relu", "silu", "tanh"]
LOG_STD = (-5.0, 2.0)
"""Soft borders of every log-std, in standardised units."""
EMBEDDING = 128
"""Width of an embedded history."""

MemberRow = Annotated[Tensor, "member row"]
Out = Annotated[Tensor, "member row out"]
Frames = Annotated[Tensor, "member row window frame"]


class Head(ABC):
    """Distribution of `numbers` numbers, coordinates first and then rewards, parametrised by `width` outputs."""

    width: int

    def __init__(self, coordinates: int, rewards: int) -> None:
        self.parts = [coordinates, rewards]
        self.numbers = coordinates + rewards

    @abstractmethod
    def moments(self, out: Out) -> tuple[MemberRows, MemberRows | None]:
        """Mean and standard deviation of each number; None for a head that tells no deviation."""

    def draw(self, out: Out, generator: torch.Generator) -> MemberRows:
        """A draw of all numbers; of a head that tells no deviation, its numbers themselves."""
        mean, std = self.moments(out)
        return mean if std is None else torch.addcmul(mean, std, torch.empty_like(mean).normal_(generator=generator))

    @abstractmethod
    def losses(self, out: Out, target: MemberRows, counts: MemberRows | None = None) -> tuple[MemberRow, MemberRow]:
        """Loss of the coordinates and of the rewards, each summed over its numbers, or over those that count (bool)."""

    def summed(self, losses: MemberRows, counts: MemberRows | None) -> tuple[MemberRow, MemberRow]:
        """Sums over coordinates and over rewards of a loss of each number."""
        losses = losses if counts is None else losses * counts
        coordinates, rewards = torch.split(losses, self.parts, dim=-1)
        return coordinates.sum(-1), rewards.sum(-1)


class GaussianHead(Head):
    """Independent normals, one for each number; `beta` weighs their likelihood, see `dynamics.weighted_nll`."""

    def __init__(self, coordinates: int, rewards: int, beta: float) -> None:
        super().__init__(coordinates, rewards)
        self.beta = beta
        self.width = 2 * self.numbers

    def moments(self, out: Out) -> tuple[MemberRows, MemberRows | None]:
        mean, raw = out.chunk(2, dim=-1)
        return mean, dynamics.soft_bound(raw, *LOG_STD).exp()

    def losses(self, out: Out, target: MemberRows, counts: MemberRows | None = None) -> tuple[MemberRow, MemberRow]:
        mean, raw = out.chunk(2, dim=-1)
        return self.summed(dynamics.weighted_nll(mean, dynamics.soft_bound(raw, *LOG_STD), target, self.beta), counts)


class DeterministicHead(Head):
    """Point predictions, by least squares."""

    def __init__(self, coordinates: int, rewards: int) -> None:
        super().__init__(coordinates, rewards)
        self.width = self.numbers

    def moments(self, out: Out) -> tuple[MemberRows, MemberRows | None]:
        return out, None

    def losses(self, out: Out, target: MemberRows, counts: MemberRows | None = None) -> tuple[MemberRow, MemberRow]:
        return self.summed(dynamics.squared_error(out, target), counts)


class MixtureHead(Head):
    """Mixture of diagonal normals over all coordinates, and another over all rewards, with the same weights."""

    def __init__(self, coordinates: int, rewards: int, components: int) -> None:
        super().__init__(coordinates, rewards)
        self.components = components
        self.width = components * (2 * self.numbers + 1)

    def moments(self, out: Out) -> tuple[MemberRows, MemberRows | None]:
        log_weights, mean, log_std = self._components(out)
        return dynamics.mixture_moments(log_weights.exp(), mean, log_std.exp())

    def draw(self, out: Out, generator: torch.Generator) -> MemberRows:
        """A draw of one component, and of it one of all numbers."""
        log_weights, mean, log_std = self._components(out)
        # The Gumbel-max rule: log-odds plus noise, of which the largest is a draw.
        waits = torch.empty_like(log_weights).exponential_(generator=generator)
        chosen = (log_weights - waits.log()).argmax(-1)[..., None, None].expand(*mean.shape[:-2], 1, self.numbers)
        mean, log_std = (values.gather(-2, chosen).squeeze(-2) for values in (mean, log_std))
        return torch.addcmul(mean, log_std.exp(), torch.empty_like(mean).normal_(generator=generator))

    def losses(self, out: Out, target: MemberRows, counts: MemberRows | None = None) -> tuple[MemberRow, MemberRow]:
        log_weights, mean, log_std = self._components(out)
        tensors = (mean, log_std, target) if counts is None else (mean, log_std, target, counts)
        parts = (torch.split(tensor, self.parts, dim=-1) for tensor in tensors)
        first, second = (dynamics.mixture_nll(log_weights, *part) for part in zip(*parts, strict=True))
        return first, second

    def _components(self, out: Out) -> tuple[Tensor, Tensor, Tensor]:
        logits, numbers = torch.split(out, [self.components, 2 * self.components * self.numbers], dim=-1)
        mean, raw = torch.unflatten(numbers, -1, (self.components, -1)).chunk(2, dim=-1)
        return torch.log_softmax(logits, dim=-1), mean, dynamics.soft_bound(raw, *LOG_STD)


def head_of(kind: Kind, coordinates: int, rewards: int, components: int, beta: float) -> Head:
    """The head of this kind of member; a variational one decodes to normals."""
    if kind == "mixture":
        return MixtureHead(coordinates, rewards, components)
    if kind == "deterministic":
        return DeterministicHead(coordinates, rewards)
    return GaussianHead(coordinates, rewards, beta)


class Members(nn.Module):
    """K independent networks from (joint observation, joint action, history) to the outputs of a head.

    Every parameter and saved buffer has the member axis first.

    Args:
        members: How many.
        in_features: Width of the joint observation and action side by side.
        head: Whose outputs are made; one more, the termination's logit, follows them where episodes terminate.
        terminates: Whether episodes terminate.
        hidden: Widths of the hidden layers.
        activation: What follows each of them.
        latent: Width of the latent of a conditional variational autoencoder; 0 for any other kind.
        window: Past pairs that are read; 0 for none.
        memory: What embeds them.
        spectral_norm: Keep the largest singular value of each hidden layer at most 1, see `contract`.
    """

    def __init__(
        self,
        members: int,
        in_features: int,
        head: Head,
        *,
        terminates: bool,
        hidden: Sequence[int],
        activation: Activation = "relu",
        latent: int = 0,
        window: int = 0,
        memory: MemoryKind = "attention",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.members, self.head, self.terminates = members, head, terminates
        self.latent, self.spectral_norm = latent, spectral_norm
        self.encoder = make_encoder(memory, members, in_features, window, EMBEDDING)
        width = in_features + (0 if self.encoder is None else EMBEDDING)
        self.net = StackedMLP(members, width + latent, hidden, head.width + terminates, activation=activation)
        self.recogniser = (
            StackedMLP(members, width + head.numbers, hidden, 2 * latent, activation=activation) if latent else None
        )
        for number, layer in enumerate(self.hidden_layers() if spectral_norm else ()):
            direction = nn.functional.normalize(torch.randn(members, 1, layer.weight.shape[1]), dim=-1)
            self.register_buffer(f"direction_{number}", direction)

    def forward(
        self, x: MemberRows, frames: Frames | None = None, generator: torch.Generator | None = None
    ) -> tuple[Out, MemberRow | None]:
        """The head's outputs and the termination's logit.

        An autoencoder's latent is at the mean of its prior, or drawn from it with a generator.
        """
        features = self._features(x, frames)
        if self.latent and generator is not None:
            latent = features.new_empty(*features.shape[:-1], self.latent).normal_(generator=generator)
            features = torch.cat([features, latent], dim=-1)
        elif self.latent:
            features = nn.functional.pad(features, (0, self.latent))
        return self._parted(features)

    def learn(
        self, x: MemberRows, frames: Frames | None, target: MemberRows, generator: torch.Generator
    ) -> tuple[Out, MemberRow | None, MemberRow | None]:
        """As `forward`, but an autoencoder draws its latent knowing the target.

        Returns:
            Outputs, logit, and the latent's divergence from its prior N(0, 1) (None for other kinds).
        """
        if self.recogniser is None:
            return (*self(x, frames), None)
        features = self._features(x, frames)
        mean, raw = self.recogniser(torch.cat([features, target], dim=-1)).chunk(2, dim=-1)
        log_std = dynamics.soft_bound(raw, *LOG_STD)
        noise = torch.empty_like(mean).normal_(generator=generator)
        latent = torch.addcmul(mean, log_std.exp(), noise)
        out, logit = self._parted(torch.cat([features, latent], dim=-1))
        return out, logit, dynamics.kl_normal(mean, log_std)

    @torch.no_grad()
    def contract(self) -> None:
        """Divide each hidden layer's weights by their largest singular value where that is above 1.

        The projection of Gouk et al. (2021); one step of power iteration a call, from the last call's direction.
        """
        for number, layer in enumerate(self.hidden_layers() if self.spectral_norm else ()):
            direction = getattr(self, f"direction_{number}")
            image = nn.functional.normalize(torch.bmm(direction, layer.weight), dim=-1)
            back = torch.bmm(image, layer.weight.transpose(1, 2))
            largest = torch.linalg.vector_norm(back, dim=-1, keepdim=True)
            direction.copy_(back / largest.clamp(min=1e-12))
            layer.weight.div_(largest.clamp(min=1.0))

    @torch.no_grad()
    def only(self, members: Annotated[Tensor, "chosen"]) -> Members:
        """A copy of the chosen members alone, in that order."""
        part = copy.deepcopy(self)
        part.members = len(members)
        for name, parameter in self.named_parameters():
            owner, _, last = name.rpartition(".")
            chosen = nn.Parameter(parameter.index_select(0, members), requires_grad=False)
            setattr(part.get_submodule(owner), last, chosen)
        return part

    def hidden_layers(self) -> list[StackedLinear]:
        """The layers before the last."""
        return [layer for layer in self.net.layers if isinstance(layer, StackedLinear)][:-1]

    def _features(self, x: MemberRows, frames: Frames | None) -> MemberRows:
        if self.encoder is None:
            return x
        if frames is None:
            raise ValueError("This world model reads a history, and none was given.")
        return torch.cat([self.encoder(frames), x], dim=-1)

    def _parted(self, features: MemberRows) -> tuple[Out, MemberRow | None]:
        out: Tensor = self.net(features)
        if not self.terminates:
            return out, None
        numbers, logit = torch.split(out, [self.head.width, 1], dim=-1)
        return numbers, logit.squeeze(-1)
