"""The weights of the loops of benchmarks/loop_baselines beside ours, and the gradients that they follow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from offline_marl.algorithms.base import Algorithm

TWINS = {"critic", "target_critic"}

Pick = Callable[[Tensor], Tensor]
Pair = tuple[nn.Parameter, nn.Parameter, Pick]


@torch.no_grad()
def lend_weights(ours: Algorithm, loop) -> None:
    """Move ours somewhere at random, so that targets differ from their sources, and the loop to the same place."""
    for parameter in ours.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    for mine, theirs, pick in pairs(loop, ours):
        mine.copy_(pick(theirs))


def pairs(loop, ours: Algorithm) -> Iterator[Pair]:
    """Each parameter of the loop, ours that holds it, and how to find it there."""
    for name in ("actor", "value", "target_value", "policy", "target_policy", "critic", "target_critic"):
        for copy_, agents in enumerate(getattr(loop, name, []) if name in TWINS else [getattr(loop, name, [])]):
            for agent, network in enumerate(agents):
                yield from layers(network, getattr(ours, name).net.stack, copy_ * len(agents) + agent)
    for name in ("q_mixer", "target_q_mixer"):
        for copy_, network in enumerate(getattr(loop, name, [])):
            yield from layers(network, getattr(ours, name).net, copy_)
    if hasattr(loop, "v_mixer"):
        yield from layers(loop.v_mixer, ours.v_mixer.net, 0)
    for name in ("mixer", "target_mixer"):
        if hasattr(loop, name):
            yield from layers(getattr(loop, name), getattr(ours, name).net, 0)
    for mine, theirs in (("encoder", "inputs"), ("target_encoder", "target_inputs")):
        for agent, encoder in enumerate(getattr(loop, mine, [])):
            yield from encoders(encoder, getattr(ours, theirs).encoder, agent)


def layers(network: nn.Sequential, stack, member: int) -> Iterator[Pair]:
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    stacked = [layer for layer in stack.layers if hasattr(layer, "weight")]
    for mine, theirs in zip(linear, stacked, strict=True):
        yield mine.weight, theirs.weight, lambda x: x[member].T
        yield mine.bias, theirs.bias, lambda x: x[member, 0]


def encoders(mine, theirs, member: int) -> Iterator[Pair]:
    yield mine.norm.weight, theirs.scale, lambda x: x[member, 0]
    yield mine.norm.bias, theirs.shift, lambda x: x[member, 0]
    yield mine.seeker.weight, theirs.seeker, lambda x: x[member].T
    for linear, stacked in ((mine.embed, theirs.embed), (mine.score, theirs.score)):
        yield linear.weight, stacked.weight, lambda x: x[member].T
        yield linear.bias, stacked.bias, lambda x: x[member, 0]
    for third, linear in enumerate((mine.query, mine.key, mine.value)):
        yield linear.weight, theirs.query_key_value.weight, lambda x, third=third: x[member].chunk(3, -1)[third].T
        yield linear.bias, theirs.query_key_value.bias, lambda x, third=third: x[member, 0].chunk(3, -1)[third]


def gradients(loop) -> dict[nn.Parameter, Tensor]:
    """What the loop's steps will have followed, summed over its steps."""
    found: dict[nn.Parameter, Tensor] = defaultdict(lambda: torch.zeros(()))

    def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                found[parameter] = found[parameter] + parameter.grad

    for optimizer in loop.optimizers.values():
        optimizer.register_step_pre_hook(keep)
    return found
