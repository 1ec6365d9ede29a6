"""The token world model: its layout, its cache, its memory, and what it tells of doubt."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from worlds import SPECS, world

from offline_marl.core.config import ConfigError, build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch, DataError, Episode, Spec
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.networks.quantizers import VectorQuantizer
from offline_marl.training.models.fit import facts_of
from offline_marl.worldmodels.marie import Marie
from offline_marl.worldmodels.rollout import Caution, rollout
from offline_marl.worldmodels.token_carry import Draws, TokenCarry, joined
from offline_marl.worldmodels.token_config import MarieConfig
from offline_marl.worldmodels.token_predictions import doubts, legal
from offline_marl.worldmodels.uncertainty import UNCERTAINTIES

SMALL = {
    "hidden": [16],
    "tokens": 3,
    "vocabulary": 8,
    "code_width": 4,
    "width": 16,
    "layers": 2,
    "length": 4,
    "window": 2,
    "tokenizer_steps": 2,
    "batch_size": 8,
    "reward_bins": 16,
    "action_bins": 8,
    "tokenizer": "vq",
    "tokens_of": "observations",
    "dropout": 0.1,
}
RESIDUALS = {"tokens_of": "residuals", "tokenizer": "fsq", "levels": [3, 3], "guess": [8], "dropout": 0.0}
DATA = {kind: world(kind) for kind in SPECS}


def made(kind: str = "discrete", data: Dataset | None = None, **settings) -> Marie:
    with seeded_globally(0, "initialisation"):
        model = Marie(build(MarieConfig, {**SMALL, **settings}), facts_of(DATA[kind] if data is None else data))
    with torch.no_grad():
        for parameter in model.nets.parameters():  # so that nothing hides behind small weights
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        if isinstance(model.tokenizer, VectorQuantizer):
            model.tokenizer.codes.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    model.place("cpu", 3)
    return model


def rows(kind: str = "discrete", window: int = 2, count: int = 12, data: Dataset | None = None) -> Batch:
    buffer = TransitionBuffer(DATA[kind] if data is None else data, window, state=False)
    return buffer.transitions(torch.arange(count))


def segments(model: Marie, kind: str = "discrete") -> Batch:
    return TransitionBuffer(DATA[kind], 0, state=False).segments(torch.tensor([0, 2, 9]), model.layout.steps)


def whole(model: Marie, cuts: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens of segments, as the transformers read them in training."""
    seen = torch.cat([cuts.obs[:, :1], cuts.next_obs], 1)
    exact = model.codec.exact(cuts.obs, cuts.actions)
    return model.codec.encode(seen, exact), model._act_tokens(cuts.actions), cuts.mask


@pytest.mark.parametrize("settings", [{}, {"decoding": "parallel"}, RESIDUALS], ids=["tokens", "parallel", "residuals"])
@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_steps_from_the_cache_tell_what_one_pass_tells(kind, settings) -> None:
    model = made(kind, **settings)
    cuts = segments(model, kind)
    exact = model.codec.exact(cuts.obs, cuts.actions)
    obs, actions, _ = whole(model, cuts)
    there = torch.ones_like(cuts.mask)
    logits, told = model.nets(obs, actions, there, exact)
    present = there[:, 0]
    cache = model.nets.prefill(obs[:, :1], actions[:, :0], present, None)
    for time in range(model.layout.steps):
        beside = None if exact is None else exact[:, time]
        slots = model.nets.advance(cache, obs[:, time], actions[:, time], present, None, beside)
        torch.testing.assert_close(model.nets.told(slots).rewards, told.rewards[:, :, time], atol=1e-5, rtol=0)
        found = [model.nets.first_logits(slots)]
        if not model.layout.parallel:
            for number in range(model.layout.tokens - 1):
                features = model.nets.follow(cache, obs[:, time + 1, :, number], None)
                found.append(model.nets.next_logits(features).unsqueeze(-2))
        torch.testing.assert_close(torch.cat(found, -2), logits[:, :, time], atol=1e-5, rtol=0)


def test_nothing_reads_what_comes_after_it_and_others_only_through_the_summary() -> None:
    """Layout [o o o | a | +]: the next observation's token k is told at place k - 1 behind the summary."""
    model = made()
    cuts = segments(model)
    obs, actions, _ = whole(model, cuts)
    there = torch.ones_like(cuts.mask)
    before = model.nets(obs, actions, there)[0]
    for time, token in ((1, 0), (1, 2), (3, 1)):
        other = obs.clone()
        other[:, time, 0, token] = (other[:, time, 0, token] + 1) % model.layout.vocabulary
        after = model.nets(other, actions, there)[0]
        changed = (before != after).flatten(-1).any(-1)  # member row time agent token
        own = changed[:, :, :, 0].any(0).any(0)
        assert not bool(own[: time - 1].any()) and not bool(own[time - 1, : token + 1].any())
        assert bool(own[time - 1, token + 1 :].all()) and bool(own[time].all())
        others = changed[:, :, :, 1:].any(0).any(0)
        assert not bool(others[:time].any()) and bool(others[time].any()), "agents hear of it at the summary"


def test_what_is_told_is_read_at_the_places_of_the_published_layout(monkeypatch) -> None:
    """16 tokens, a choice and the summary: blocks of 18, the next tokens told at 17 mod 18 and at the 15 behind it."""
    model = made(tokens=16, members=1, length=3)
    nets = model.nets
    monkeypatch.setattr(nets.transformer, "forward", lambda x, mask: places(x))
    monkeypatch.setattr(nets.obs_head, "forward", lambda x: x)
    heads: list[torch.Tensor] = []
    monkeypatch.setattr(nets, "told", lambda slots, _next_obs: heads.append(slots))

    def places(x: torch.Tensor) -> torch.Tensor:
        return torch.arange(x.shape[2], dtype=x.dtype).view(-1, 1).expand(x.shape)

    cuts = segments(model)
    obs, actions, _ = whole(model, cuts)
    logits, _ = nets(obs, actions, torch.ones_like(cuts.mask))
    for time in range(3):
        told = logits[0, 0, time, 0, :, 0].tolist()
        assert told == [18 * time + 17 + token for token in range(16)]
        assert heads[0][0, 0, time, 0, 0] == 18 * time + 17


@pytest.mark.parametrize(("settings", "passes"), [({}, 3), ({"decoding": "parallel"}, 1), ({"tokens": 5}, 5)])
def test_a_step_passes_the_transformers_once_for_each_token(settings, passes, monkeypatch) -> None:
    """One less than published: a last token is read together with what is done."""
    model, counted = made(**settings), []
    extend = model.nets.transformer.extend
    monkeypatch.setattr(model.nets.transformer, "extend", lambda *given: counted.append(1) or extend(*given))
    starts = rows()
    _, carry = model.step(model.begin(starts), starts.actions)
    counted.clear()
    model.step(carry, starts.actions)
    assert len(counted) == passes


def test_tokens_are_no_bag_to_the_summary() -> None:
    model = made()
    cuts = segments(model)
    obs, actions, _ = whole(model, cuts)
    obs[:, :, 1] = torch.tensor([1, 4, 6])
    other = obs.clone()
    other[:, 0, 1] = torch.tensor([6, 1, 4])
    there = torch.ones_like(cuts.mask)
    one, two = (model.nets(tokens, actions, there)[1].rewards[:, :, 0, 0] for tokens in (obs, other))
    assert float((one - two).detach().abs().max()) > 1e-4


def test_steps_of_who_is_away_are_read_by_nobody() -> None:
    model = made()
    cuts = segments(model)
    obs, actions, _ = whole(model, cuts)
    there = torch.ones_like(cuts.mask)
    there[:, 1, 2] = False
    other = obs.clone()
    other[:, 1, 2] = (other[:, 1, 2] + 1) % model.layout.vocabulary
    known = there.unsqueeze(0).expand(2, *there.shape).clone()
    known[:, :, 0, 2] = False  # its last known step tells the token that was changed
    one, two = (model.nets(tokens, actions, there)[0] for tokens in (obs, other))
    torch.testing.assert_close(one[known], two[known])


@pytest.mark.parametrize("settings", [{}, RESIDUALS], ids=["observations", "residuals"])
@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_start_reads_the_steps_that_were_recorded_before_it(kind, settings) -> None:
    model = made(kind, **settings)
    begun = rows(kind)
    carry = model.begin(begun)
    assert carry.blank is not None and sorted(set(carry.blank.tolist())) == [0, 1, 2], "at the begin of episodes none"
    history = begun.history.clone()
    history[:, :, -1] = history[:, :, -1].flip(0)
    shuffled = replace(begun, history=history)
    spreads = []
    for batch in (begun, shuffled):
        model.place("cpu", 3)
        spreads.append(model.step(model.begin(batch), batch.actions)[0].spread.rewards)
    assert not torch.allclose(*spreads)
    # What stands before an episode is no context: with or without room for it, the same is told.
    first = begun.map(lambda value: value[:1])
    told = []
    for batch in (first, replace(first, history=None)):
        model.place("cpu", 3)
        told.append(model.step(model.begin(batch), batch.actions)[0])
    torch.testing.assert_close(told[0].spread.rewards, told[1].spread.rewards, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"decoding": "parallel"}, RESIDUALS], ids=["tokens", "parallel", "residuals"])
def test_imagination_goes_on_past_the_positions(settings) -> None:
    model = made(**settings)
    begun = rows()
    carry = model.begin(begun)
    for time in range(3 * model.layout.steps):
        prediction, carry = model.step(carry, begun.actions)
        assert bool(prediction.next_obs.isfinite().all()), time
        assert carry.actions.shape[1] <= model.layout.steps


@pytest.mark.parametrize("settings", [{}, RESIDUALS], ids=["observations", "residuals"])
def test_a_cache_that_is_made_anew_tells_the_same(settings) -> None:
    """Also the memory's bound: parts of rows predicted without a cache are the rows with one."""
    found = []
    for rows_at_once in (1_000, 5):
        model = made(rows_at_once=rows_at_once, **settings)
        begun = rows()
        carry, told = model.begin(begun), []
        for _ in range(5):
            prediction, carry = model.step(carry, begun.actions)
            told.append(prediction)
        assert (carry.cache is None) == (rows_at_once == 5)
        found.append(told)
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one.next_obs, two.next_obs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.spread.next_obs, two.spread.next_obs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.spread.tokens.information, two.spread.tokens.information, atol=1e-4, rtol=1e-4)
        assert torch.equal(one.next_avail_actions, two.next_avail_actions)


@torch.no_grad()
def test_residuals_are_told_beside_the_observation_of_now_and_the_guess() -> None:
    """o' = o + guess + residual, by hand: with tokens of no residual the guess alone is what happens."""
    model = made("continuous", tokens_of="residuals", tokenizer="bins", vocabulary=5, guess=[8])
    begun = rows("continuous")
    codec, everyone = model.codec, torch.ones(12, 3, dtype=torch.bool)
    guessed = model.guess(codec.exact(begun.obs, begun.actions))
    still = codec.still.expand(12, -1, -1)
    assert bool((still[:, model.tokenizer.present] == 2).all()), "the middle bin of five is no residual"
    told = codec.decode(still, begun.obs, guessed, everyone).detach()
    expected = model.facts.join(begun.obs) + guessed.changes.mean(0)
    torch.testing.assert_close(told, expected)
    model.guess.scale.fill_(0.5)
    up = still.clone()
    up[:, 0, 0] += 1
    moved = codec.decode(up, begun.obs, guessed, everyone).detach() - told
    bin_width = 2 * math.asinh(20.0) / 4
    assert float(moved[:, 0].mean()) == pytest.approx(0.5 * math.sinh(bin_width), rel=1e-4)
    assert not bool(moved[:, 1:].any())


@torch.no_grad()
def test_what_is_recorded_comes_back_from_guess_and_residual() -> None:
    model = made("continuous", tokens_of="residuals", tokenizer="bins", vocabulary=4_001, guess=[8])
    cuts = segments(model, "continuous")
    model.guess.scale.copy_(model.guess.std)
    exact = model.codec.exact(cuts.obs, cuts.actions)
    tokens = model.codec.encode(torch.cat([cuts.obs[:, :1], cuts.next_obs], 1), exact)
    everyone = torch.ones_like(cuts.rewards, dtype=torch.bool)
    back = model.codec.decode(tokens[:, 1:], cuts.obs, model.guess(exact), everyone)
    lived = cuts.mask.all(-1)
    torch.testing.assert_close(back[lived], model.facts.join(cuts.next_obs)[lived], atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(told_of(model, cuts.rewards, exact).mean(0), cuts.rewards, atol=1e-3, rtol=1e-3)


def told_of(model: Marie, rewards: torch.Tensor, exact: torch.Tensor, chances: torch.Tensor | None = None):
    """What members tell whose classes are those that they learn: of these rewards, or of one of them by its chance."""
    classes = model.reward_told.classes(model.codec.reward_values(rewards, exact))
    if chances is not None:
        classes = torch.einsum("r,r...c->...c", chances, classes).expand_as(classes)
    return model.codec.rewards(model.reward_told.expected(classes.log()), model.guess(exact))


@pytest.mark.parametrize("bins", [16, 64])
def test_what_is_told_of_a_rare_reward_is_its_expectation(bins: int) -> None:
    model = made("continuous", **RESIDUALS, reward_bins=bins)
    model.guess.scale.fill_(0.3)
    given = rows("continuous", window=0, count=1)
    exact = model.codec.exact(given.obs, given.actions).expand(2, -1)
    rewards = torch.tensor([[0.0], [1.0]]).expand(-1, 3)
    told = told_of(model, rewards, exact, torch.tensor([0.9, 0.1])).mean(0)
    torch.testing.assert_close(told, torch.full((2, 3), 0.1), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("settings", "reach"), [({}, math.inf), (RESIDUALS, 20.0)], ids=["rewards", "residuals"])
def test_rewards_that_are_no_classes_are_numbers_by_smooth_l1(settings, reach: float) -> None:
    model = made("continuous", ce_for_r=False, **settings)
    assert model.nets.reward_head.layers[-1].weight.shape[-1] == 1 and model.reward_told.numbers == 1
    told = torch.tensor([0.0, 0.5, 3.0, 25.0]).view(4, 1)  # a member each, of which one place was 1
    found = model.reward_told.losses(told.unsqueeze(-1), torch.tensor([1.0]))
    torch.testing.assert_close(found.squeeze(-1), torch.tensor([0.5, 0.125, 1.5, 23.5]))
    far = model.reward_told.losses(torch.zeros(1, 1, 1), torch.tensor([30.0]))
    assert float(far) == min(30.0, reach) - 0.5, "what is rare and far teaches no more than what can be told"
    given = rows("continuous")
    exact = model.codec.exact(given.obs, given.actions)
    guessed = None if exact is None else model.guess(exact)
    values = model.codec.reward_values(given.rewards, exact)
    back = model.codec.rewards(model.reward_told.expected(values.expand(2, -1, -1).unsqueeze(-1)), guessed)
    torch.testing.assert_close(back.mean(0), given.rewards.clamp(-reach, reach), atol=1e-4, rtol=1e-4)


def test_without_classes_nobody_tells_how_far_a_reward_scatters() -> None:
    model = made("continuous", ce_for_r=False, **RESIDUALS)
    spread = model.step(model.begin(rows("continuous")), rows("continuous").actions)[0].spread
    with pytest.raises(DataError, match="reward_deviation needs rewards that are classes: leave ce_for_r on"):
        UNCERTAINTIES["reward_deviation"](spread)
    assert bool(torch.isfinite(UNCERTAINTIES["reward_variance"](spread)).all())


@pytest.mark.parametrize("mean", [True, False])
def test_what_is_allowed_weighs_as_the_mean_of_its_choices_or_as_their_sum(mean: bool) -> None:
    model = made("discrete", ce_for_av=mean, dropout=0.0, tokenizer_steps=0)
    for weights in model.nets.avail_head.parameters():
        weights.data.zero_()  # every choice is as likely allowed as not: log 2 each
    cuts = segments(model, "discrete")
    seen = cuts.mask if cuts.next_seen is None else cuts.mask & cuts.next_seen
    choices = float(model.act_present.sum(-1).float().expand(seen.shape)[seen].mean())
    told = float(model.update(cuts)["loss/avail_actions"])
    assert told == pytest.approx(model.members * math.log(2) * (1.0 if mean else choices))


def test_the_guess_learns_with_the_tokenizer_and_then_stays() -> None:
    model = made("continuous", **RESIDUALS)
    cuts = segments(model, "continuous")
    for step in range(4):
        before = {name: value.clone() for name, value in model.guess.state_dict().items()}
        metrics = model.update(cuts)
        moved = any(not torch.equal(value, before[name]) for name, value in model.guess.state_dict().items())
        assert moved == (step < 2) and (float(metrics["loss/guess"]) > 0) == (step < 2)
    assert model.updates == 4


def test_what_was_corrected_is_where_the_next_residual_is_added() -> None:
    model = made("continuous", **RESIDUALS)
    begun = rows("continuous")
    found = []
    for shift in (0.0, 10.0):
        model.place("cpu", 3)
        prediction, carry = model.step(model.begin(begun), begun.actions)
        carry = carry.correct(prediction.next_obs + shift)
        found.append(model.step(carry, begun.actions)[0].next_obs)
    present = model.tokenizer.present
    assert float((found[1] - found[0])[:, present].mean()) == pytest.approx(10.0, abs=3.0)


def test_dreams_that_branch_do_not_write_into_each_other() -> None:
    begun = rows()
    found = []
    for branches in (False, True):
        model = made()
        _, trunk = model.step(model.begin(begun), begun.actions)
        model.place("cpu", 5)
        _, one = model.step(trunk, begun.actions)
        if branches:
            _, other = model.step(trunk, 1 - begun.actions.clamp(max=1))
            model.step(other, begun.actions)
        model.place("cpu", 6)
        found.append(model.step(one, begun.actions)[0].spread.rewards)
    torch.testing.assert_close(*found)


def test_the_newer_half_of_a_full_memory_by_hand() -> None:
    obs = torch.arange(6).view(1, 6, 1, 1).expand(3, -1, -1, -1)
    carry = TokenCarry(
        obs, obs[:, :5], torch.tensor([0, 3, 4]), torch.ones(3, 1, dtype=torch.bool), torch.arange(3), 3, filled=7
    )
    assert carry.slid(6) is carry, "there is room for one more step"
    slid = carry.slid(5)
    assert slid.obs[0].flatten().tolist() == [3, 4, 5] and slid.actions[0].flatten().tolist() == [3, 4]
    assert slid.blank.tolist() == [0, 0, 1] and slid.cache is None


def test_rows_that_are_over_leave_the_cache() -> None:
    model = made()
    begun = rows()
    _, carry = model.step(model.begin(begun), begun.actions)
    some = carry.where(torch.arange(12) % 3 == 0)
    assert isinstance(some, TokenCarry) and len(some.places) == 4
    assert some.cache.numbers * 3 == carry.cache.numbers
    assert carry.correct(begun.obs) is carry


def test_the_same_seed_dreams_the_same_and_another_does_not() -> None:
    found = []
    for seed in (1, 1, 2):
        model = made()
        model.place("cpu", seed)
        begun = rows()
        carry = model.begin(begun)
        for _ in range(2):
            prediction, carry = model.step(carry, begun.actions)
        found.append(prediction.next_obs)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_some_choice_is_always_allowed_and_padding_never_is() -> None:
    model = made()
    present = SPECS["discrete"].present("act")
    allowed = legal(
        torch.tensor([[[0.1, 0.2, 0.0, 0.9], [0.7, 0.6, 0.9, 0.9], [0.4, 0.1, 0.2, 0.3]]]), model.act_present
    )
    assert allowed.tolist() == [
        [[False, True, False, False], [True, True, False, False], [True, False, False, False]]
    ] and not bool((allowed & ~present).any())


def test_members_that_are_alike_agree_and_others_do_not() -> None:
    for alike in (True, False):
        model = made()
        if alike:
            with torch.no_grad():
                for parameter in model.nets.parameters():
                    parameter[1] = parameter[0]
        begun = rows()
        spread = model.step(model.begin(begun), begun.actions)[0].spread
        for name in ("covariance_norm", "standardized_variance", "reward_variance", "token_information"):
            value = float(UNCERTAINTIES[name](spread).max())
            assert value < 1e-6 if alike else value > 1e-6, name


def test_the_measures_of_tokens_by_hand() -> None:
    zero = torch.zeros(2, 1, 3, 3, 8)
    zero[1, ..., 0] = 50.0  # the second member is sure of the first code
    tokens = torch.zeros(1, 3, 3, dtype=torch.int64)
    found = doubts(tokens, tokens, zero, torch.tensor([0]), None)
    torch.testing.assert_close(found.entropy, torch.full((1, 3), 0.5))
    torch.testing.assert_close(found.first_entropy, torch.full((1, 3), 0.5))
    torch.testing.assert_close(found.surprisal, torch.full((1, 3), 3 * math.log(8.0)))
    odds = torch.tensor([1 + 7 * 0.0] + [0.0] * 7) / 2 + 1 / 16
    expected = -(odds * odds.log()).sum() - math.log(8.0) / 2
    torch.testing.assert_close(found.information, expected.expand(1, 3))


def test_a_team_agrees_on_its_reward_and_its_end() -> None:
    rewards = DATA["continuous"].rewards
    data = replace(DATA["continuous"], rewards=rewards[:, :1].expand(-1, 3).contiguous())
    model = made("continuous", data)
    assert model.team_rewards and not made("continuous").team_rewards
    begun = rows("continuous", data=data)
    prediction, _ = model.step(model.begin(begun), begun.actions)
    assert torch.equal(prediction.rewards, prediction.rewards[:, :1].expand(-1, 3))
    assert torch.equal(prediction.terminations, prediction.terminations[:, :1].expand(-1, 3))


def test_agents_that_earn_as_much_as_each_other_at_other_times_are_paid_apart() -> None:
    rewards = DATA["continuous"].rewards[:, :1]
    data = replace(DATA["continuous"], rewards=torch.cat([rewards, rewards.flip(0), rewards.roll(7, 0)], dim=1))
    model = made("continuous", data)
    assert torch.equal(model.facts.reward_low, model.facts.reward_low[:1].expand(3))
    begun = rows("continuous", data=data)
    prediction, _ = model.step(model.begin(begun), begun.actions)
    assert not torch.allclose(prediction.rewards, prediction.rewards[:, :1].expand(-1, 3), atol=1e-2)


def test_what_several_agents_see_they_foresee_alike() -> None:
    spec = Spec(obs_dims=(2, 2), act_dims=(1, 1))
    generator = torch.Generator().manual_seed(0)
    episodes = []
    for _ in range(6):
        obs = torch.randn(6, 2, 2, generator=generator)
        obs[:, 1, 0] = obs[:, 0, 1]
        ends = torch.zeros(5, 2, dtype=torch.bool)
        actions = torch.rand(5, 2, 1, generator=generator)
        cut = ends.clone()
        cut[-1] = True
        episodes.append(Episode(obs, actions, torch.randn(5, 2, generator=generator), ends, cut))
    data = Dataset.from_episodes(episodes, spec)
    model = made("continuous", data)
    begun = rows(window=2, data=data)
    prediction, _ = model.step(model.begin(begun), begun.actions)
    assert model.facts.coordinates == 3
    assert torch.equal(prediction.next_obs[:, 1, 0], prediction.next_obs[:, 0, 1])


@pytest.mark.parametrize("settings", [{}, RESIDUALS], ids=["observations", "residuals"])
def test_every_token_of_a_batch_weighs_the_same_however_its_segments_are_cut(settings) -> None:
    """Losses and gradients of segments of other lengths are the means of each one's, weighted by its tokens."""
    made_alike = {"dropout": 0.0, "grad_clip": 0.0, **settings}
    cuts = segments(made())
    counts = cuts.mask.flatten(1).sum(1).tolist()
    assert len(set(counts)) > 1, "one of them is cut by the end of its episode"

    def learnt(rows: list[int]) -> tuple[dict[str, float], torch.Tensor]:
        model = made(**made_alike)
        model.updates = model.tokenizer_steps
        metrics = model.update(cuts.map(lambda value: value[rows]))
        return {name: float(value) for name, value in metrics.items()}, model.nets.obs_head.layers[-1].weight.grad

    (together, slope), alone = learnt([0, 1, 2]), [learnt([row]) for row in range(3)]
    share = torch.tensor(counts) / sum(counts)
    for name in ("loss/tokens", "loss/rewards"):
        expected = sum(float(each) * told[name] for each, (told, _) in zip(share, alone, strict=True))
        assert together[name] == pytest.approx(expected, rel=1e-5), name
    expected = sum(each * grad for each, (_, grad) in zip(share, alone, strict=True))
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-6)


def coins() -> Dataset:
    """Both agents see the same coin, thrown anew at each step, in different columns, and each a number of its own.

    Who sees heads may choose 1 besides 0.
    """
    generator = torch.Generator().manual_seed(0)
    episodes = []
    for _ in range(30):
        coin = (2 * torch.randint(2, (11,), generator=generator) - 1).float()
        obs = torch.randn(11, 2, 2, generator=generator)
        obs[:, 0, 0] = obs[:, 1, 1] = coin
        none = torch.zeros(10, 2, dtype=torch.bool)
        cut = none.clone()
        cut[-1] = True
        allowed = torch.ones(11, 2, 2, dtype=torch.bool)
        allowed[..., 1] = (coin > 0).unsqueeze(-1)
        still = torch.zeros(10, 2, dtype=torch.int64)
        episodes.append(Episode(obs, still, torch.zeros(10, 2), none, cut, avail_actions=allowed))
    return Dataset.from_episodes(episodes, Spec(obs_dims=(2, 2), act_dims=(2, 2), action_kind="discrete"))


COIN = {"tokenizer": "bins", "vocabulary": 21, "tokenizer_steps": 80, "members": 1, "width": 32, "window": 1}
COIN |= {"dropout": 0.0, "lr": 3e-3, "guess": [16], "batch_size": 32}


@pytest.mark.parametrize("settings", [{}, {"decoding": "parallel"}, {"tokens_of": "residuals"}], ids=str)
@pytest.mark.long
def test_of_chance_that_several_agents_see_one_outcome_is_told_and_what_follows_from_it(settings) -> None:
    """Not the mean of several draws, which is no outcome; and what is allowed is what that outcome allows."""
    data = coins()
    model = made("discrete", data, **{**COIN, **settings})
    buffer = TransitionBuffer(data, 1, state=False)
    draws = torch.Generator().manual_seed(0)
    for _ in range(400):
        model.update(buffer.view(buffer.draw(32, draws), model.needs))
    begun = buffer.transitions(torch.arange(300))
    carry = model.begin(begun)
    for _ in range(2 * model.layout.steps):
        prediction, carry = model.step(carry, begun.actions)
        coin = prediction.next_obs[:, 0, 0]
        assert torch.equal(coin, prediction.next_obs[:, 1, 1])
        assert float((coin.abs() > 0.5).float().mean()) > 0.97, "heads or tails"
        assert 0.8 < float(coin.std()) < 1.2
        assert prediction.next_avail_actions is not None
        heads = (coin > 0).unsqueeze(-1)
        assert float((prediction.next_avail_actions[..., 1] == heads).float().mean()) > 0.97


@pytest.mark.parametrize("settings", [{}, {"decoding": "parallel"}, {"tokens_of": "residuals"}], ids=str)
@torch.no_grad()
def test_nobody_remembers_what_another_agent_told_otherwise(settings) -> None:
    """Tokens that are drawn apart are written anew, in the cache too: it tells what one that is made anew does."""
    data = coins()
    model = made("discrete", data, **{**COIN, "length": 8, "layers": 2, **settings})
    begun = rows(window=1, data=data, count=40)
    carry = model.begin(begun)
    for _ in range(3):
        _, carry = model.step(carry, begun.actions)
        written = model.codec.tokenizer.decode(carry.obs[:, -1])
        torch.testing.assert_close(written[:, 0, 0], written[:, 1, 1])
    assert len({tuple(row) for row in carry.obs[:, -1, :, 0].tolist()}) > 1, "something was drawn"
    told = []
    for start in (carry, replace(carry, cache=None, filled=0)):
        model.place("cpu", 9)
        told.append(model.step(start, begun.actions)[0])
    torch.testing.assert_close(told[0].next_obs, told[1].next_obs)
    torch.testing.assert_close(told[0].spread.rewards, told[1].spread.rewards, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_end_comes_as_often_as_it_is_foreseen() -> None:
    model = made("continuous")
    assert model.layout.terminates
    last = model.nets.end_head.layers[-1]
    last.weight.zero_()
    last.bias.fill_(math.log(0.3 / 0.7))
    begun = rows("continuous", count=1)
    many = begun.map(lambda value: value.expand(4_000, *value.shape[1:]))
    ended = model.step(model.begin(many), many.actions)[0].terminations
    assert torch.equal(ended[:, 0], ended[:, 1])
    assert float(ended[:, 0].float().mean()) == pytest.approx(0.3, abs=0.03)


def test_the_tokenizer_learns_first_and_then_stays() -> None:
    model = made()
    cuts = segments(model)
    tokens, nets = (dict(getattr(model, name).named_parameters()) for name in ("tokenizer", "nets"))
    for step in range(4):
        before = {name: value.detach().clone() for name, value in (tokens | nets).items()}
        codes = model.tokenizer.codes.clone()
        metrics = model.update(cuts)
        first = step < 2
        assert all(torch.equal(value, before[name]) != first for name, value in tokens.items())
        assert any(torch.equal(value, before[name]) == first for name, value in nets.items())
        assert torch.equal(codes, model.tokenizer.codes) != first
        assert (float(metrics["loss/tokens"]) == 0.0) == first
    assert model.first_look == 3


def test_a_rollout_in_it_holds_choices_of_every_step() -> None:
    model = made()

    class Acting:
        window = 0

        def act(self, obs, *, history=None, avail_actions=None, explore=False):
            return avail_actions.float().argmax(-1)

    batch = rollout(model, Acting(), rows(), 6, Caution(spread="token_entropy", cutoff=math.inf)).batch.check()
    assert bool(batch.avail_actions[batch.mask].any(-1).all())
    assert bool(batch.avail_actions.gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)[batch.mask].all())


def test_the_likeliest_path_needs_no_chance() -> None:
    model = made()
    begun = rows()
    speaker = torch.zeros(12, dtype=torch.int64)
    one, two = (model._stepped(model.begin(begun), begun.actions, Draws(None, speaker))[0] for _ in range(2))
    assert torch.equal(one.next_obs, two.next_obs)
    parts = [
        model._stepped(model.begin(part), part.actions, Draws(None, speaker[:6]))[0]
        for part in (begun.map(lambda value: value[:6]), begun.map(lambda value: value[6:]))
    ]
    torch.testing.assert_close(joined(parts).spread.next_obs, one.spread.next_obs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"window": 8, "length": 8}, "A window of 8 leaves no step"),
        ({"width": 10, "heads": 4}, "cannot be shared by 4 heads"),
        ({"levels": [8, 1]}, "levels"),
        ({"tokenizer": "vae"}, "tokenizer"),
        ({"sampling": "bootstrap"}, r"read the same segments, so that nothing is resampled: leave sampling away\.$"),
        ({"history_encoder": "gru"}, r"read the last `window` steps themselves: leave history_encoder away\.$"),
    ],
)
def test_settings_that_mean_nothing_are_refused(bad, said) -> None:
    with pytest.raises(ConfigError, match=said):
        build(MarieConfig, bad)


@pytest.mark.parametrize(
    ("given", "unread"),
    [
        ({"tokenizer": "vq", "vocabulary": 32, "code_decay": 0.8, "guess": [8]}, []),
        ({"tokenizer": "vq", "levels": [4]}, ["levels"]),
        ({"vocabulary": 32, "levels": [4]}, ["vocabulary"]),
        ({"tokenizer": "bins", "tokens": 2, "hidden": [8], "vocabulary": 32}, ["hidden", "tokens"]),
        ({"tokens_of": "observations", "guess": [8]}, ["guess"]),
        ({"ce_for_r": False, "reward_bins": 16}, ["reward_bins"]),
    ],
)
def test_settings_of_other_tokenizers_are_known_to_be_read_by_nobody(given, unread) -> None:
    assert build(MarieConfig, given).unread() == unread


def walk(noise: bool, episodes: int = 20, steps: int = 10) -> Dataset:
    """Two agents on five fields; the second is also carried along by the first, unless chance moves both."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(episodes):
        actions = torch.randint(2, (steps, 2), generator=generator)
        obs = torch.zeros(steps + 1, 2, 1)
        obs[0, :, 0] = torch.randint(5, (2,), generator=generator).float()
        for time in range(steps):
            move = actions[time] * 2 - 1
            after = obs[time, :, 0] + torch.stack([move[0], move.sum()])
            chance = torch.randint(5, (2,), generator=generator).float()
            obs[time + 1, :, 0] = chance if noise else after.clamp(0, 4)
        ends = torch.zeros(steps, 2, dtype=torch.bool)
        cut = ends.clone()
        cut[-1] = True
        rewards = (obs[:-1, :1, 0] == obs[:-1, 1:, 0]).float().expand(-1, 2).contiguous()
        found.append(Episode(obs, actions, rewards, ends, cut))
    return Dataset.from_episodes(found, Spec(obs_dims=(1, 1), act_dims=(2, 2), action_kind="discrete"))


@pytest.mark.slow
@pytest.mark.parametrize("noise", [False, True], ids=["certain", "random"])
def test_it_learns_a_small_world_by_heart_and_the_entropy_of_chance(noise) -> None:
    data = walk(noise)
    settings = {**SMALL, "tokenizer": "bins", "vocabulary": 5, "width": 32, "dropout": 0.0, "lr": 3e-3}
    with seeded_globally(0, "initialisation"):
        model = Marie(build(MarieConfig, settings), facts_of(data))
    model.place("cpu", 0)
    buffer, draws = TransitionBuffer(data, 0, state=False), torch.Generator().manual_seed(0)
    for _ in range(80 if noise else 300):  # chance can only be learnt by heart
        metrics = model.update(buffer.view(buffer.draw(32, draws), model.needs))
    likelihood = float(metrics["loss/tokens"]) / model.members
    begun = TransitionBuffer(data, 2, state=False).segments(torch.arange(0, 200, 10), 10)
    carry = model.begin(begun.map(lambda value: value[:, 0]))
    wrong = []
    for time in range(10):
        prediction, carry = model.step(carry, begun.actions[:, time])
        wrong.append((prediction.next_obs - begun.next_obs[:, time]).abs().mean())
        if noise:
            assert float(prediction.spread.tokens.entropy.mean()) == pytest.approx(1.0, abs=0.12)
    if not noise:
        assert likelihood < 0.05
        floor = (model.facts.high - model.facts.low).max() / 5 / 2  # half a bin
        assert float(torch.stack(wrong).mean()) < float(floor)
