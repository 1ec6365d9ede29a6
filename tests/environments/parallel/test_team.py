from __future__ import annotations

import sys

import numpy as np
import pytest

from offline_marl.core.partition import partition
from offline_marl.core.permissions import ImportPath
from offline_marl.core.types import DataError
from offline_marl.environments import guarded
from offline_marl.environments.base import MissingSimulatorError, environments
from offline_marl.environments.checks import BadNumbersError
from offline_marl.environments.episodes import Memoryless, run_episodes
from offline_marl.environments.parallel.entry import environment_of
from offline_marl.environments.parallel.factories import factory_of
from offline_marl.environments.parallel.team import PettingZooTeam

spaces = pytest.importorskip("gymnasium.spaces")
pettingzoo = pytest.importorskip("pettingzoo")
HERE = "pettingzoo_toys"


class Leaving(pettingzoo.ParallelEnv):
    """Agent a leaves after step 2, agent b after step 4; b sees two numbers, and has choices that are masked."""

    possible_agents = ["a", "b"]  # noqa: RUF012
    metadata = {}  # noqa: RUF012

    def __init__(self, continuous=True, limit=True):
        self.continuous = continuous
        if limit:
            self.max_steps = 9

    def observation_space(self, agent):
        return spaces.Box(-9, 99, (1 + (agent == "b"),), np.float32)

    def action_space(self, agent):
        if not self.continuous:
            return spaces.Discrete(2 + (agent == "b"))
        return spaces.Box(np.float32(0), np.float32(4 if agent == "a" else 10), (1,), np.float32)

    def reset(self, seed=None, options=None):
        self.agents, self.clock = ["a", "b"], 0
        return self.look(), {"a": {}, "b": {"action_mask": [1, 0, 1]}}

    def look(self):
        return {agent: np.full(self.observation_space(agent).shape, self.clock, np.float32) for agent in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.clock += 1
        over = {agent: self.clock >= (2 if agent == "a" else 4) for agent in self.agents}
        seen, paid = self.look(), {agent: float(np.sum(actions[agent])) for agent in self.agents}
        cut, infos = dict.fromkeys(self.agents, False), {agent: {} for agent in self.agents}
        self.agents = [agent for agent in self.agents if not over[agent]]
        return seen, paid, over, cut, infos


@pytest.fixture
def leaving(monkeypatch):
    import sys
    from types import ModuleType

    module = ModuleType(HERE)
    module.parallel_env = Leaving
    monkeypatch.setitem(sys.modules, HERE, module)


def test_agents_that_leave_early_see_zeros_and_earn_nothing(leaving):
    team = PettingZooTeam(ImportPath(HERE), 2)
    assert team.max_steps == 9 and team.spec.obs_dims == (1, 2) and team.spec.state_dim == 0
    assert team.reset([0, 1]).obs.tolist() == [[[0, 0], [0, 0]]] * 2
    rows = [team.step(np.zeros((2, 2, 1), np.float32)) for _ in range(4)]
    # The middle of [-1, 1] is the middle of each agent's own bounds.
    assert [rewards[0].tolist() for _, rewards, _, _ in rows] == [[2, 5], [2, 5], [0, 5], [0, 5]]
    assert [seen.obs[1].tolist() for seen, *_ in rows] == [[[n, 0], [n, n]] for n in (1, 2)] + [
        [[0, 0], [n, n]] for n in (3, 4)
    ]
    assert [over.tolist() for _, _, over, _ in rows] == [[False, False]] * 3 + [[True, True]]
    seen, rewards, over, cut = team.step(np.ones((2, 2, 1), np.float32))
    assert not rewards.any() and over.all() and not cut.any() and seen.obs[0, 1].tolist() == [4, 4]


def test_an_environment_of_pettingzoos_methods_alone_is_played_and_drawn(leaving, monkeypatch):
    class Plain:
        possible_agents, max_steps = Leaving.possible_agents, 9

        def __init__(self):
            self.inner = Leaving()

        def render(self):
            return np.zeros((4, 4, 3), np.uint8)

    for name in ("observation_space", "action_space", "reset", "step"):
        setattr(Plain, name, lambda self, *given, _name=name, **said: getattr(self.inner, _name)(*given, **said))
    Plain.agents = property(lambda self: self.inner.agents)
    monkeypatch.setattr(f"{HERE}.parallel_env", Plain)
    team = PettingZooTeam(ImportPath(HERE), 1)
    team.reset([0])
    assert team.step(np.zeros((1, 2, 1), np.float32))[1].tolist() == [[2, 5]]
    assert "pettingzoo" in team.versions() and team.render().shape == (4, 4, 3) and team.fps > 0


def test_an_environment_that_cannot_be_closed_is_told_of_once(leaving, monkeypatch, capsys):
    def torn(self):
        raise RuntimeError("the window is gone")

    monkeypatch.setattr(guarded, "_LEFT_OPEN", set())
    monkeypatch.setattr(Leaving, "close", torn)
    for _ in range(2):
        team = PettingZooTeam(ImportPath(HERE), 2)
        team.reset([0, 1])
        team.close()
    told = f"warning: the environment {HERE} could not be closed (RuntimeError: the window is gone).\n"
    assert capsys.readouterr().err == told


def test_choices_are_masked_as_the_environment_says(leaving):
    team = PettingZooTeam(ImportPath(HERE), 1, {"continuous": False, "limit": False}, max_steps=3)
    seen = team.reset([0])
    assert team.spec.act_dims == (2, 3) and seen.avail_actions.tolist() == [[[True, True, False], [True, False, True]]]
    for step in range(3):
        _, _, over, cut = team.step(np.array([[1, 2]]))
        assert (over[0], cut[0]) == (False, step == 2)
    with pytest.raises(DataError, match="choices that their agent does not have"):
        team.step(np.array([[2, 2]]))


def test_an_agent_that_leaves_without_a_choice_ends_nothing(leaving, monkeypatch):
    step = Leaving.step

    def tired(self, actions):
        seen, paid, over, cut, infos = step(self, actions)
        masks = {agent: np.zeros(self.action_space(agent).n, np.int8) for agent in infos}
        for agent, mask in masks.items():
            mask[0] = not over[agent]
        return seen, paid, over, cut, {agent: {"action_mask": mask} for agent, mask in masks.items()}

    monkeypatch.setattr(Leaving, "step", tired)
    team = PettingZooTeam(ImportPath(HERE), 1, {"continuous": False})
    steps = list(run_episodes(team, [0], Memoryless(lambda seen, step: np.zeros((1, 2), np.int64))))
    assert len(steps) == 4
    shown = [step.next_seen.avail_actions[0].tolist() for step in steps]
    first, every = [True, False, False], [[True, True, False], [True, True, True]]
    assert shown == [[first, first], [every[0], first], [every[0], first], every]


def test_a_module_of_the_working_folder_is_found_as_a_console_script_leaves_the_path(tmp_path, monkeypatch):
    (tmp_path / "world_beside.py").write_text("def make():\n    return 3\n")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    with pytest.raises(MissingSimulatorError, match="world_beside cannot be imported here"):
        factory_of(ImportPath("world_beside:make"))
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert factory_of(ImportPath("world_beside:make"))() == 3
    assert sys.path == [*before, str(tmp_path)], "what is installed comes first"
    monkeypatch.delitem(sys.modules, "world_beside")


def test_an_agent_that_is_told_nothing_beside_the_step_is_played(leaving, monkeypatch):
    class Silent(Leaving):
        def step(self, actions):
            *rest, infos = super().step(actions)
            return *rest, dict.fromkeys(infos)

    monkeypatch.setattr(f"{HERE}.parallel_env", Silent)
    team = PettingZooTeam(ImportPath(HERE), 1)
    team.reset([0])
    assert team.step(np.zeros((1, 2, 1), np.float32))[1].tolist() == [[2, 5]]
    assert team.infos() == [{"a": {}, "b": {}}]


def test_a_state_that_shrinks_as_agents_leave_is_refused(leaving, monkeypatch):
    monkeypatch.setattr(Leaving, "state", lambda self: np.full(len(self.agents), self.clock))
    team = PettingZooTeam(ImportPath(HERE), 1)
    assert team.reset([5]).state.tolist() == [[0, 0]]
    assert team.step(np.zeros((1, 2, 1), np.float32))[0].state.tolist() == [[1, 1]]
    with pytest.raises(
        BadNumbersError, match="the state has 1 numbers instead of 2 after 2 steps of the episode with se"
    ):
        team.step(np.zeros((1, 2, 1), np.float32))


@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_actions_at_the_ends_lie_within_bounds_of_float64(leaving, monkeypatch, end):
    space = spaces.Box(-0.1, 0.3, (1,), np.float64)

    class Exact(Leaving):
        def action_space(self, agent):
            return space

        def step(self, actions):
            assert all(space.contains(action) for action in actions.values()), actions
            return super().step(actions)

    monkeypatch.setattr(f"{HERE}.parallel_env", Exact)
    team = PettingZooTeam(ImportPath(HERE), 1)
    team.reset([0])
    paid = team.step(np.full((1, 2, 1), end, np.float32))[1]
    assert paid == pytest.approx(0.3 if end > 0 else -0.1)


def test_an_agent_that_comes_back_is_refused(leaving, monkeypatch):
    class Turns(Leaving):
        def step(self, actions):
            self.clock += 1
            acted, self.agents = self.agents, [self.possible_agents[self.clock % 2]]
            paid, flags = dict.fromkeys(acted, 1.0), dict.fromkeys(self.agents, False)
            return self.look(), paid, flags, flags, {}

    monkeypatch.setattr(f"{HERE}.parallel_env", Turns)
    team = PettingZooTeam(ImportPath(HERE), 1)
    team.reset([5])
    nothing = np.zeros((1, 2, 1), np.float32)
    team.step(nothing)
    with pytest.raises(BadNumbersError, match="a, who had left, comes back after 2 steps of the episode with seed 5"):
        team.step(nothing)


def test_agents_that_stay_in_the_list_after_their_end_have_left_all_the_same(leaving, monkeypatch):
    class Lists(Leaving):
        def step(self, actions):
            listed = self.agents
            shown = super().step(actions)
            self.agents = listed
            return shown

    monkeypatch.setattr(f"{HERE}.parallel_env", Lists)
    team = PettingZooTeam(ImportPath(HERE), 1)
    team.reset([0])
    rows = [team.step(np.zeros((1, 2, 1), np.float32)) for _ in range(4)]
    assert [seen.present[0].tolist() for seen, *_ in rows] == [[True, True]] + [[False, True]] * 2 + [[False, False]]
    assert [over.tolist() for _, _, over, _ in rows] == [[False]] * 3 + [[True]]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Sequence(spaces.Box(0, 1, (2,))), r"Agent a of .* sees Sequence.*, which is no row of numbers"),
        (spaces.Dict(action_mask=spaces.MultiBinary(2), obs=spaces.Box(0, 1, (2,))), "hold 'observation'.*'obs'"),
    ],
)
def test_observations_that_are_no_row_of_numbers_are_refused(leaving, monkeypatch, space, said):
    monkeypatch.setattr(Leaving, "observation_space", lambda self, agent: space)
    monkeypatch.setattr(Leaving, "look", lambda self: {agent: space.sample() for agent in self.agents})
    with pytest.raises(DataError, match=said):
        PettingZooTeam(ImportPath(HERE), 1)


def test_what_cannot_be_used_is_refused_in_a_sentence(leaving):
    with pytest.raises(DataError, match="does not say how long an episode lasts: give max_steps"):
        PettingZooTeam(ImportPath(HERE), 1, {"limit": False})
    with pytest.raises(MissingSimulatorError, match=r"no_such_package cannot be imported here"):
        factory_of(ImportPath("no_such_package:make"))
    with pytest.raises(DataError, match="has no function 'nothing'"):
        factory_of(ImportPath(f"{HERE}:nothing"))
    with pytest.raises(DataError, match="2 copies"):
        PettingZooTeam(ImportPath(HERE), 2).reset([1, 2, 3])
    with pytest.raises(DataError, match="made for a team"):
        environment_of(ImportPath(HERE)).make(partition("reacher", "2x1", "0"), 1)


@pytest.mark.parametrize(
    ("agents", "told"),
    [
        (["a", "a"], rf"^{HERE} has 2 agents named 'a': give each its own name\.$"),
        ([], rf"^{HERE} has no agents: its possible_agents is empty\.$"),
    ],
)
def test_agents_that_cannot_be_told_apart_are_refused(leaving, monkeypatch, agents, told):
    monkeypatch.setattr(Leaving, "possible_agents", agents)
    with pytest.raises(DataError, match=told):
        PettingZooTeam(ImportPath(HERE), 1)


WIDTHS = {
    "simple-spread": ((18, 18, 18), (5, 5, 5), (5, 5, 5)),
    "simple-tag": ((16, 16, 16, 14), (5, 5, 5, 5), (5, 5, 5, 5)),
    "simple-reference": ((21, 21), (50, 50), (15, 15)),
    "simple-adversary": ((8, 10, 10), (5, 5, 5), (5, 5, 5)),
    "simple-speaker-listener": ((3, 11), (3, 5), (3, 5)),
    "simple": ((4,), (5,), (5,)),
    "simple-crypto": ((4, 8, 8), (4, 4, 4), (4, 4, 4)),
    "simple-push": ((8, 19), (5, 5), (5, 5)),
    "simple-world-comm": ((34, 34, 34, 34, 28, 28), (20, 5, 5, 5, 5, 5), (9, 5, 5, 5, 5, 5)),
}


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("name", WIDTHS)
def test_mpe_agrees_with_mpe2_step_by_step(name, continuous):
    pytest.importorskip("mpe2")
    version = {"simple-speaker-listener": 4}.get(name, 3)
    env = environments.get(f"{name}-continuous" if continuous else name).make(None, 2)
    obs_dims, *act_dims = WIDTHS[name]
    assert (env.spec.obs_dims, env.spec.act_dims, env.max_steps) == (obs_dims, act_dims[continuous], 25)
    other = factory_of(ImportPath(f"mpe2.{name.replace('-', '_')}_v{version}"))(
        max_cycles=25, continuous_actions=continuous
    )
    seen, (obs, _) = env.reset([4, 7]), other.reset(seed=7)
    draw = np.random.default_rng(0)
    for step in range(25):
        for i, agent in enumerate(env.agents):
            assert np.array_equal(seen.obs[1, i, : obs_dims[i]], obs[agent]) and not seen.obs[1, i, obs_dims[i] :].any()
        assert np.array_equal(seen.state[1], other.state())
        if continuous:
            actions = draw.uniform(-1, 1, (2, env.spec.n_agents, env.spec.act_dim)).astype(np.float32)
            told = {a: (actions[1, i, : env.spec.act_dims[i]] + 1) / 2 for i, a in enumerate(env.agents)}
        else:
            actions = draw.integers(0, env.spec.act_dims, (2, env.spec.n_agents))
            told = {a: int(actions[1, i]) for i, a in enumerate(env.agents)}
        seen, rewards, over, cut = env.step(actions)
        obs, paid, _, _, _ = other.step(told)
        np.testing.assert_allclose(rewards[1], [paid[agent] for agent in env.agents], rtol=1e-6)
        assert not over.any() and cut.all() == (step == 24)
    assert {"mpe2", "pettingzoo"} <= set(env.versions())
    env.close()


def test_settings_are_put_over_a_tasks_own():
    pytest.importorskip("mpe2")
    kind = environments.get("simple-spread")
    assert kind.told({}) is kind
    env = kind.told({"N": 2}, max_steps=4).make(None, 1)
    assert (env.spec.n_agents, env.spec.action_kind, env.max_steps) == (2, "discrete", 4)
    env.close()


@pytest.mark.parametrize(
    ("settings", "max_steps", "length"),
    [({"max_cycles": 7}, None, 7), ({}, 30, 30), ({}, 3, 3), ({"max_cycles": 7}, 30, 7), ({"max_cycles": 30}, 3, 3)],
)
def test_episodes_of_mpe_are_as_long_as_they_are_asked_to_be(settings, max_steps, length):
    pytest.importorskip("mpe2")
    env = environments.get("simple").told({"continuous_actions": False}).told(settings, max_steps).make(None, 1)
    steps = list(run_episodes(env, [0], Memoryless(lambda seen, step: np.zeros((1, 1), np.int64))))
    assert (env.max_steps, len(steps)) == (length, length) and steps[-1].truncations.all()
    env.close()


@pytest.mark.parametrize("cycles", [0, -3, 2.5, True, "many"])
def test_a_length_of_episodes_that_is_none_is_refused(cycles):
    with pytest.raises(DataError, match=r"cannot be made with max_cycles = .*: it should be a whole number above 0\."):
        environments.get("simple-spread").told({"max_cycles": cycles})


def test_any_environment_by_its_import_path():
    pytest.importorskip("mpe2")
    env = environment_of(ImportPath("mpe2.simple_v3:parallel_env"), {"max_cycles": 7}).make(None, 1)
    assert env.spec.n_agents == 1 and env.max_steps == 7
    env.close()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mpe2.simple_spread_v1", "mpe2.simple_spread_v1 is not installed here, but mpe2.simple_spread_v3"),
        ("pettingzoo.mpe.simple_tag_v2", "simple_tag_v2 is not installed here, but mpe2.simple_tag_v3"),
        ("pettingzoo.sisl.pursuit_v4", "pursuit_v4 is not installed here, but pettingzoo.sisl.pursuit_v5"),
        ("pettingzoo.sisl.chase_v4", r"pettingzoo\.sisl\.chase_v4 cannot be imported here .*: pip install"),
        ("sisl/pursuit-v4", "PettingZoo registers no 'sisl/pursuit-v4': there is sisl/pursuit-v5"),
        ("sisl/pursiut-v5", r"registers no 'sisl/pursiut-v5': did you mean 'sisl/pursuit-v5'\?"),
    ],
)
def test_another_version_is_answered_by_the_one_that_is_there(name, said):
    if "/" in name and not hasattr(pettingzoo, "parallel_registry"):
        pytest.skip("PettingZoo older than its registry")
    with pytest.raises((DataError, MissingSimulatorError), match=said) as refusal:
        factory_of(ImportPath(name))
    assert "\n" not in str(refusal.value)


def test_registered_ids_are_taken_beside_import_paths():
    if not hasattr(pettingzoo, "parallel_registry"):
        pytest.skip("PettingZoo older than its registry")
    pettingzoo.register("parallel", "toys/leaving-v0", entry_point=Leaving, kwargs={"continuous": False})
    try:
        env = PettingZooTeam(ImportPath("toys/leaving-v0"), 1)
        assert env.spec.act_dims == (2, 3) and env.max_steps == 9
    finally:
        del pettingzoo.parallel_registry["toys/leaving-v0"]


@pytest.mark.parametrize(
    "settings", [{"N": 100_000}, {"N": 10**100}, {"N": -300}, {"N": 1e9}, {"max_cycles": 10**9}, {"N": float("inf")}]
)
def test_a_task_of_mpe_is_not_made_with_huge_numbers(settings):
    with pytest.raises(DataError, match=r"simple-spread cannot be made with .* is the most\."):
        environments.get("simple-spread").told(settings)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (lambda obs, paid: obs.pop("b"), "b is there and is shown nothing after 1 steps"),
        (lambda obs, paid: paid.pop("b"), "b is there and is paid nothing after 1 steps"),
    ],
)
def test_agents_that_are_told_nothing_are_refused_instead_of_seeing_zeros(leaving, monkeypatch, lost, said):
    class Losing(Leaving):
        def step(self, actions):
            obs, paid, *rest = super().step(actions)
            lost(obs, paid)
            return obs, paid, *rest

    monkeypatch.setattr(f"{HERE}.parallel_env", Losing)
    team = PettingZooTeam(ImportPath(HERE), 1)
    team.reset([5])
    with pytest.raises(BadNumbersError, match=said):
        team.step(np.zeros((1, 2, 1), np.float32))


@pytest.mark.parametrize("cut", [True, False])
def test_what_an_agent_sees_last_matters_where_it_is_cut_off(leaving, monkeypatch, cut):
    class Emptied(Leaving):
        """Shows agents of the next step alone, of which the last one has none."""

        def step(self, actions):
            acted = list(self.agents)
            self.agents = []
            over = dict.fromkeys(acted, not cut)
            return {}, dict.fromkeys(acted, 1.0), over, dict.fromkeys(acted, cut), {}

    monkeypatch.setattr(f"{HERE}.parallel_env", Emptied)
    team = PettingZooTeam(ImportPath(HERE), 1)
    team.reset([5])
    nothing = np.zeros((1, 2, 1), np.float32)
    if cut:
        with pytest.raises(BadNumbersError, match="a is there and is shown nothing after 1 steps"):
            team.step(nothing)
    else:
        assert team.step(nothing)[0].obs.tolist() == [[[0, 0], [0, 0]]], "nothing comes after an end"
