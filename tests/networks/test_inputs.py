from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from offline_marl.networks.inputs import AgentInputs, HistoryEncoder, sinusoids
from offline_marl.networks.recurrent import RecurrentEncoder


def position(time: int, column: int, width: int) -> float:
    """Vaswani et al., 2017, section 3.5, one entry."""
    angle = time / 10_000.0 ** (2 * (column // 2) / width)
    return math.sin(angle) if column % 2 == 0 else math.cos(angle)


class Plain(nn.Module):
    """One member of the encoder as its equations read: every frame embedded, every product taken per frame."""

    def __init__(self, encoder: HistoryEncoder, member: int, window: int) -> None:
        super().__init__()
        frame_features, width = encoder.embed.weight.shape[1:]
        self.window, self.width = window, width
        self.embed = nn.Linear(frame_features, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.score = nn.Linear(width, width)
        self.seeker = nn.Parameter(torch.zeros(width))
        with torch.no_grad():
            for plain, stacked in ((self.embed, encoder.embed), (self.score, encoder.score)):
                plain.weight.copy_(stacked.weight[member].t())
                plain.bias.copy_(stacked.bias[member, 0])
            for part, plain in enumerate((self.query, self.key, self.value)):
                columns = slice(part * width, (part + 1) * width)
                plain.weight.copy_(encoder.query_key_value.weight[member][:, columns].t())
                plain.bias.copy_(encoder.query_key_value.bias[member, 0, columns])
            self.norm.weight.copy_(encoder.scale[member, 0])
            self.norm.bias.copy_(encoder.shift[member, 0])
            self.seeker.copy_(encoder.seeker[member, :, 0])

    def forward(self, frames: Tensor) -> Tensor:
        """Map `row window step` to `row feature`."""
        rows = []
        for row in frames:
            x = torch.stack(
                [
                    self.embed(row[time]) + torch.tensor([position(time, j, self.width) for j in range(self.width)])
                    for time in range(self.window)
                ]
            )
            attention = torch.softmax(self.query(x) @ self.key(x).t() / math.sqrt(self.width), dim=-1)
            hidden = self.norm(x + attention @ self.value(x))
            weights = torch.softmax(torch.tanh(self.score(hidden)) @ self.seeker, dim=0)
            rows.append((weights.unsqueeze(-1) * hidden).sum(0))
        return torch.stack(rows)

    def gradients(self) -> dict[str, Tensor]:
        """By the encoder's names for its parameters, in its axes."""
        three = (self.query, self.key, self.value)
        return {
            "scale": self.norm.weight.grad[None],
            "shift": self.norm.bias.grad[None],
            "seeker": self.seeker.grad[:, None],
            "embed.weight": self.embed.weight.grad.t(),
            "embed.bias": self.embed.bias.grad[None],
            "query_key_value.weight": torch.cat([part.weight.grad.t() for part in three], dim=-1),
            "query_key_value.bias": torch.cat([part.bias.grad for part in three])[None],
            "score.weight": self.score.weight.grad.t(),
            "score.bias": self.score.bias.grad[None],
        }


def shaken(encoder: HistoryEncoder) -> HistoryEncoder:
    """Scale and shift begin at one and zero, where a slip would hide."""
    with torch.no_grad():
        encoder.scale.add_(torch.randn_like(encoder.scale) * 0.3)
        encoder.shift.add_(torch.randn_like(encoder.shift) * 0.3)
        encoder.embed.weight.mul_(2.0)
    return encoder


@pytest.mark.parametrize(("members", "window", "width"), [(2, 10, 128), (3, 4, 16), (1, 1, 8)])
def test_the_encoder_is_its_plain_equations_forward_and_backward(members: int, window: int, width: int) -> None:
    torch.manual_seed(0)
    encoder = shaken(HistoryEncoder(members, 7, window, width, fan_in=[7, 3, 5][:members]))
    frames = torch.randn(members, 5, window, 7)
    frames[:, 0, : window // 2] = 0.0  # an episode that has just begun
    weight = torch.randn(members, 5, width)
    ours = encoder(frames)
    (ours * weight).sum().backward()
    found = dict(encoder.named_parameters())
    for member in range(members):
        plain = Plain(encoder, member, window)
        expected = plain(frames[member])
        torch.testing.assert_close(ours[member], expected, atol=1e-5, rtol=1e-5)
        (expected * weight[member]).sum().backward()
        gradients = plain.gradients()
        assert set(gradients) == set(found)
        for name, gradient in gradients.items():
            grad = found[name].grad
            assert grad is not None
            # Sums of many products: the error is relative to the largest of them.
            torch.testing.assert_close(
                grad[member], gradient, atol=1e-5 * max(1.0, gradient.abs().max().item()), rtol=1e-5, msg=name
            )


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    encoder = HistoryEncoder(2, 7, 4, 16)
    encoder(torch.randn(2, 5, 4, 7)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.ne(0).any()), name


def test_positions_are_those_of_the_paper() -> None:
    expected = torch.tensor([[position(time, column, 6) for column in range(6)] for time in range(5)])
    torch.testing.assert_close(sinusoids(5, 6), expected)
    odd = torch.tensor([[position(time, column, 5) for column in range(5)] for time in range(5)])
    torch.testing.assert_close(sinusoids(5, 5), odd)


def test_the_order_of_the_past_matters() -> None:
    torch.manual_seed(0)
    encoder, frames = HistoryEncoder(1, 7, 4, 16), torch.randn(1, 5, 4, 7)
    assert not torch.allclose(encoder(frames), encoder(frames.flip(2)), atol=1e-4)


def test_positions_are_no_saved_state() -> None:
    assert set(HistoryEncoder(1, 7, 4, 16).state_dict()) == {
        n for n, _ in HistoryEncoder(1, 7, 4, 16).named_parameters()
    }


# --- AgentInputs --------------------------------------------------------------------------------------------------


def test_without_history_or_sharing_features_are_the_observations() -> None:
    inputs = AgentInputs([3, 2], [1, 1])
    obs = torch.randn(5, 2, 3)
    assert torch.equal(inputs(obs), obs)
    assert (inputs.width, inputs.fan_in, list(inputs.parameters())) == (3, [3, 2], [])


def test_sharing_adds_the_agents_index() -> None:
    inputs = AgentInputs([3, 2], [1, 1], shared=True)
    obs = torch.randn(5, 4, 2, 3)
    features = inputs(obs)
    assert features.shape == (5, 4, 2, 5) and (inputs.width, inputs.fan_in) == (5, [5, 4])
    assert torch.equal(features[..., :3], obs)
    assert features[2, 3, :, 3:].tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_the_history_is_required_where_there_is_a_window() -> None:
    inputs = AgentInputs([3, 3], [1, 1], window=4, embedding=8)
    with pytest.raises(ValueError, match="reads a history of 4 pairs, and none was given"):
        inputs(torch.zeros(5, 2, 3))


@pytest.mark.parametrize("lead", [(5,), (5, 3)])
@pytest.mark.parametrize("shared", [False, True])
def test_features_are_embedding_then_observation(shared: bool, lead: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inputs = AgentInputs([3, 3], [1, 1], window=4, shared=shared, embedding=8)
    obs, history = torch.randn(*lead, 2, 3), torch.randn(*lead, 2, 4, 4)
    features = inputs(obs, history)
    assert features.shape == (*lead, 2, inputs.width) and inputs.width == 11 + 2 * shared
    assert torch.equal(features[..., 8:11], obs)
    assert inputs.encoder is not None
    for agent in range(2):
        plain = Plain(inputs.encoder, 0 if shared else agent, 4)
        expected = plain(history[..., agent, :, :].reshape(-1, 4, 4)).view(*lead, 8)
        torch.testing.assert_close(features[..., agent, :8], expected, atol=1e-5, rtol=1e-5)


def test_a_shared_encoder_equals_encoders_of_equal_weights() -> None:
    torch.manual_seed(0)
    shared = AgentInputs([3, 3], [1, 1], window=4, shared=True, embedding=8)
    apart = AgentInputs([3, 3], [1, 1], window=4, embedding=8)
    assert shared.encoder is not None and apart.encoder is not None
    with torch.no_grad():
        for ours, theirs in zip(apart.encoder.parameters(), shared.encoder.parameters(), strict=True):
            assert len(ours) == 2 and len(theirs) == 1
            ours.copy_(theirs.expand_as(ours))
    obs, history = torch.randn(6, 2, 3), torch.randn(6, 2, 4, 4)
    torch.testing.assert_close(shared(obs, history)[..., :11], apart(obs, history))


def test_an_agents_features_depend_on_its_own_past_alone() -> None:
    torch.manual_seed(0)
    for shared in (False, True):
        inputs = AgentInputs([3, 3], [1, 1], window=4, shared=shared, embedding=8)
        obs, history = torch.randn(5, 2, 3), torch.randn(5, 2, 4, 4)
        other = history.clone()
        other[:, 1] += 1.0
        before, after = inputs(obs, history), inputs(obs, other)
        torch.testing.assert_close(after[:, 0], before[:, 0])
        assert not torch.allclose(after[:, 1], before[:, 1], atol=1e-4)


def test_padding_of_a_narrow_agents_past_gets_no_gradient() -> None:
    torch.manual_seed(0)
    inputs = AgentInputs([3, 1], [2, 1], window=4, embedding=8)
    history = torch.randn(5, 2, 4, 5)
    real = torch.tensor([True, False, False, True, False])  # one number seen, one done
    history[:, 1, :, ~real] = 0.0
    inputs(torch.zeros(5, 2, 3), history)[..., :8].square().sum().backward()
    assert inputs.encoder is not None and inputs.encoder.embed.weight.grad is not None
    grad = inputs.encoder.embed.weight.grad[1]
    assert bool(grad[~real].eq(0).all()) and bool(grad[real].ne(0).any(-1).all())


def test_initial_embeddings_are_spread_for_the_true_width_of_a_pair() -> None:
    torch.manual_seed(0)
    inputs = AgentInputs([95, 3], [5, 1], window=4, embedding=128)
    assert inputs.encoder is not None
    spread = inputs.encoder.embed.weight.detach().abs().amax((1, 2)).tolist()
    assert spread == pytest.approx([0.1, 0.5], rel=0.02)


def test_standardising_by_hand() -> None:
    inputs = AgentInputs([2, 1], [1, 1])
    inputs.standardize(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[2.0, 0.5], [4.0, 1e-3]]))
    obs = torch.tensor([[[5.0, 3.0], [1.0, 0.0]]])
    # (5 - 1) / 2, (3 - 2) / .5; (1 - 3) / 4, padding stays 0
    torch.testing.assert_close(inputs(obs), torch.tensor([[[2.0, 2.0], [-0.5, 0.0]]]))


def test_standardising_reaches_what_was_seen_in_the_past_but_not_what_was_done_nor_empty_frames() -> None:
    torch.manual_seed(0)
    inputs = AgentInputs([3, 3], [2, 2], window=4, embedding=8)
    mean, std = torch.randn(2, 3), torch.rand(2, 3) + 0.5
    obs, history = torch.randn(5, 2, 3), torch.randn(5, 2, 4, 5)
    history[0] = 0.0
    history[1, :, :3] = 0.0
    by_hand = history.clone()
    for row in range(5):
        for agent in range(2):
            for time in range(4):
                if history[row, agent, time].abs().sum() > 0:
                    by_hand[row, agent, time, :3] = (history[row, agent, time, :3] - mean[agent]) / std[agent]
    expected = inputs((obs - mean) / std, by_hand)
    inputs.standardize(mean, std)
    torch.testing.assert_close(inputs(obs, history), expected, atol=1e-5, rtol=1e-5)


def test_statistics_are_saved_with_the_parameters() -> None:
    inputs, other = AgentInputs([3, 2], [1, 1]), AgentInputs([3, 2], [1, 1])
    inputs.standardize(torch.randn(2, 3), torch.rand(2, 3) + 0.5)
    other.load_state_dict(inputs.state_dict())
    obs = torch.randn(5, 2, 3)
    assert torch.equal(inputs(obs), other(obs)) and not torch.equal(inputs(obs), obs)


# --- other memories -----------------------------------------------------------------------------------------------


def cell_of(encoder: RecurrentEncoder, member: int) -> nn.GRUCell:
    """One member's unit as torch has it."""
    gru = encoder.gru
    plain = nn.GRUCell(gru.read.weight.shape[1], gru.width)
    with torch.no_grad():
        plain.weight_ih.copy_(gru.read.weight[member].t())
        plain.weight_hh.copy_(gru.recall.weight[member].t())
        plain.bias_ih.copy_(gru.read.bias[member, 0])
        plain.bias_hh.copy_(gru.recall.bias[member, 0])
    return plain


@pytest.mark.parametrize("lead", [(5,), (5, 3)])
@pytest.mark.parametrize("shared", [False, True])
def test_a_gru_embeds_the_steps_that_happened_from_a_zero_state(shared: bool, lead: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inputs = AgentInputs([3, 2], [1, 2], window=4, memory="gru", shared=shared, embedding=8)
    inputs.standardize(torch.randn(2, 3), torch.rand(2, 3) + 0.5)
    obs, history = torch.randn(*lead, 2, 3), torch.randn(*lead, 2, 4, 5)
    flat = history.view(-1, 2, 4, 5)
    flat[0] = 0.0  # the first step of an episode
    flat[1, :, :3] = 0.0  # its second
    flat[2, 1, 1:3] = 0.0  # the second agent was away for two steps
    features = inputs(obs, history)
    assert isinstance(inputs.encoder, RecurrentEncoder) and inputs.width == 11 + 2 * shared
    assert torch.equal(features[..., 8:11], (obs - inputs.mean) * inputs.scale)
    for row, embedded in enumerate(features[..., :8].reshape(-1, 2, 8)):
        for agent in range(2):
            state = torch.zeros(8)
            for pair in flat[row, agent]:
                if bool(pair.ne(0).any()):
                    seen = (pair[:3] - inputs.mean[agent]) * inputs.scale[agent]
                    state = cell_of(inputs.encoder, 0 if shared else agent)(torch.cat([seen, pair[3:]]), state)
            torch.testing.assert_close(embedded[agent], state, atol=1e-6, rtol=0)
    assert bool(features.view(-1, 2, inputs.width)[0, :, :8].eq(0).all())


def test_stacked_observations_stand_before_the_present_one_the_oldest_first() -> None:
    torch.manual_seed(0)
    inputs = AgentInputs([3, 2], [1, 1], frame_stack=3, shared=True)
    inputs.standardize(torch.randn(2, 3), torch.rand(2, 3) + 0.5)
    assert (inputs.window, inputs.width, inputs.fan_in, inputs.encoder) == (2, 11, [11, 8], None)
    obs, history = torch.randn(5, 2, 3), torch.randn(5, 2, 2, 4)
    history[0, :, 0] = 0.0  # the second step of an episode
    features = inputs(obs, history)
    frames = [(each - inputs.mean) * inputs.scale for each in (history[..., 0, :3], history[..., 1, :3], obs)]
    frames[0][0] = 0.0
    torch.testing.assert_close(features[..., :9], torch.cat(frames, -1))
    assert features[3, :, 9:].tolist() == [[1.0, 0.0], [0.0, 1.0]]
    with pytest.raises(ValueError, match="reads a history of 2 pairs, and none was given"):
        inputs(obs)


@pytest.mark.parametrize(("window", "frame_stack"), [(4, 3), (2, 6)])
def test_memory_and_stacked_observations_each_read_their_own_length(window: int, frame_stack: int) -> None:
    torch.manual_seed(0)
    both = AgentInputs([3, 3], [1, 1], window=window, memory="gru", frame_stack=frame_stack, embedding=8)
    gru = AgentInputs([3, 3], [1, 1], window=window, memory="gru", embedding=8)
    stack = AgentInputs([3, 3], [1, 1], frame_stack=frame_stack)
    gru.load_state_dict(both.state_dict())
    assert both.window == max(window, frame_stack - 1)
    obs, history = torch.randn(5, 2, 3), torch.randn(5, 2, both.window, 4)
    parts = [gru(obs, history[..., -window:, :])[..., :8], stack(obs, history[..., 1 - frame_stack :, :])]
    torch.testing.assert_close(both(obs, history), torch.cat(parts, -1))


def test_no_memory_reads_no_past_whatever_the_window() -> None:
    inputs, obs = AgentInputs([3, 2], [1, 1], window=4, memory="none"), torch.randn(5, 2, 3)
    assert torch.equal(inputs(obs), obs)
    assert (inputs.window, inputs.width, list(inputs.parameters())) == (0, 3, [])


def test_attention_keeps_the_names_it_has_been_saved_under() -> None:
    names = {"embed", "query_key_value", "score"}
    encoder = {f"encoder.{name}.{part}" for name in names for part in ("weight", "bias")}
    encoder |= {f"encoder.{name}" for name in ("scale", "shift", "seeker")}
    assert set(AgentInputs([3, 2], [1, 1], window=4).state_dict()) == {"mean", "scale", *encoder}
