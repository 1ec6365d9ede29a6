"""Cross-play: who plays, on which starts, what the matrix says; and in which sentence it refuses."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from runs import small_run, start_and_kill
from worlds import SPECS, saved, world

from offline_marl.collection.collect import collect
from offline_marl.collection.config import CollectConfig
from offline_marl.core.config import ConfigError
from offline_marl.core.permissions import ImportPath
from offline_marl.core.types import DataError
from offline_marl.environments.base import Seen
from offline_marl.environments.clocked import ClockedTeam
from offline_marl.launch.cli import main
from offline_marl.report.crossplay import crossplay as crossplay_module
from offline_marl.report.crossplay.crossplay import crossplay, guest_positions
from offline_marl.report.crossplay.files import csv_of, lines_of, plain, write_crossplay
from offline_marl.report.crossplay.groups import find_groups, losses, same_group
from offline_marl.report.crossplay.players import MixedTeam
from offline_marl.runs.config import EnvironmentChoice
from offline_marl.runs.folder import RunFolderError
from offline_marl.tasks.environment_tasks import find_environment_task, play_uniformly
from offline_marl.training import training_run
from offline_marl.training.run import evaluate

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results" / "crossplay.csv"
ENOUGH = {"steps": 400, "lr": 0.003, "batch_size": 64, "hidden": [64], "final_episodes": 1, "checkpoint_every": 0}


def cloned(folder: Path, environment: str, expert: str, seed: int, **fields) -> str:
    """A bc run on episodes of one scripted expert."""
    data = folder / f"{environment}-{expert}.safetensors"
    if not data.exists():
        collect(CollectConfig(environment=environment, who=(expert,), episodes=40, out=data, score_episodes=0))
    out = folder / f"{environment}-{expert}-{seed}"
    small_run(out, str(data), seed=seed, **{**ENOUGH, **fields})
    return str(out)


@pytest.fixture(scope="module")
def meeting(tmp_path_factory):
    """Two runs that go to the left post and two that go to the right one, of different windows."""
    folder = tmp_path_factory.mktemp("meeting")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "draw_run", lambda *_: None)
        sides = [("left", 0, 0), ("right", 0, 0), ("left", 1, 2), ("right", 1, 0)]
        yield [cloned(folder, "rendezvous", side, seed, window=window) for side, seed, window in sides]


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Teams of three that choose red, red and blue."""
    folder = tmp_path_factory.mktemp("colours")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "draw_run", lambda *_: None)
        yield [cloned(folder, "coordination", *who) for who in (("red", 0), ("red", 1), ("blue", 0))]


@pytest.fixture(scope="module")
def matrix(meeting):
    return crossplay(meeting, episodes=30, seed=3)


@pytest.mark.long
def test_runs_of_one_convention_fit_and_others_do_not(matrix):
    assert [group.members for group in matrix.groups] == [(0, 2), (1, 3)]
    assert [group.convention for group in matrix.groups] == ["left", "right"]
    assert min(group.followed for group in matrix.groups) > 0.8
    same = same_group([(0, 2), (1, 3)])
    assert matrix.means[same].min() > 4 and matrix.means[~same].max() < 1
    assert matrix.agreement[same].min() > 0.7 and matrix.agreement[~same].max() == 0
    told = matrix.summary
    assert told["across"].high < told["within"].low and told["gap"].mean > 2
    assert told["gap"].mean == pytest.approx(told["self_play"].mean - told["cross_play"].mean)
    assert "starts and runs" in matrix.covers and matrix.notes == ()


def test_self_play_is_what_evaluate_says(matrix, meeting):
    for row, run in enumerate(meeting):
        score = evaluate(run, episodes=30, seed=3)
        assert matrix.returns[row, row] == pytest.approx(score.returns)
        # The bootstrap's draws differ, the interval is the same one.
        assert (matrix.low[row, row], matrix.high[row, row]) == pytest.approx((score.low, score.high), abs=0.1)


def test_the_same_seed_gives_the_same_numbers_and_another_order_the_same_pairs(matrix, meeting):
    again = crossplay(meeting, episodes=30, seed=3, workers=2)
    assert plain(again) == plain(matrix)
    turned = crossplay(meeting[::-1], episodes=30, seed=3)
    assert np.allclose(turned.returns, matrix.returns[::-1, ::-1])
    assert not np.allclose(crossplay(meeting[:2], episodes=30, seed=4).returns, matrix.returns[:2, :2])


def test_one_guest_among_three_is_each_agent_in_turn(colours):
    found = crossplay(colours, episodes=4)
    # Six steps, a point for each at which all three agree: a guest of the other colour spoils every one.
    assert np.allclose(found.means, [[6, 6, 0], [6, 6, 0], [0, 0, 6]])
    assert [(group.members, group.convention) for group in found.groups] == [((0, 1), "red"), ((2,), "blue")]
    assert guest_positions(2) == (1,) and guest_positions(3) == (0, 1, 2)
    assert "one guest" in plain(found)["entry"]


@pytest.mark.parametrize("agents", [2, 3])
def test_rows_give_agent_0_and_columns_the_guest(agents):
    """Planted: run k does k, and agent i's action is worth 10 ** i, so that a return tells who played what."""

    class Doing:
        window = 0

        def __init__(self, number):
            self.number = number

        def act(self, obs, **_):
            return torch.full((len(obs), agents, 1), float(self.number))

    class World:
        spec = SimpleNamespace(n_agents=agents, step_dim=2, discrete=False, act_dim=1)
        copies = 2

        def reset(self, seeds):
            return Seen(np.zeros((len(seeds), agents, 1), np.float32))

        def step(self, actions):
            worth = np.repeat((actions[..., 0] * 10.0 ** np.arange(agents)).sum(1, keepdims=True), agents, 1)
            over = np.ones(len(actions), dtype=bool)
            return self.reset(over), worth, over, ~over

    players = [SimpleNamespace(policy=Doing(number), folder=str(number)) for number in range(3)]
    returns, agreement, _ = crossplay_module._play_all(players, None, World(), [1, 2, 3], lambda: None)
    for i, j in np.ndindex(3, 3):
        teams = [[j if agent == guest else i for agent in range(agents)] for guest in guest_positions(agents)]
        expected = np.mean([sum(run * 10**agent for agent, run in enumerate(team)) for team in teams])
        assert returns[i, j] == pytest.approx([expected] * 3)
    assert agreement is None
    if agents == 2:
        assert returns[1, 2, 0] == 1 + 10 * 2, "agent_0 of run 1 with agent_1 of run 2"


def test_every_agent_reads_its_own_runs_window():
    class Reader:
        def __init__(self, window, sign):
            self.window, self.sign = window, sign

        def act(self, obs, *, history=None, avail_actions=None, explore=False):
            assert (history is None) == (self.window == 0)
            past = 0 if history is None else history[..., 0].sum(-1, keepdim=True)
            return self.sign * (obs[..., :1] + past)

    short, none = Reader(2, -1.0), Reader(0, 1.0)
    team = MixedTeam([short, none, short], SPECS["continuous"])
    obs, history = torch.ones(1, 3, 4), torch.arange(5.0).reshape(1, 1, 5, 1).expand(1, 3, 5, 1)
    assert team.window == 2
    assert MixedTeam([short, Reader(5, 1.0)], SPECS["continuous"]).window == 5
    assert team.act(obs, history=history).flatten().tolist() == [-8.0, 1.0, -8.0]


def test_losses_and_groups_by_hand():
    returns = np.array([[10.0, 9.0, 0.0], [8.0, 9.0, 2.0], [1.0, 0.0, 8.0]])
    loss = losses(returns)
    assert loss[0].tolist() == [0.0, 1.0, 8.5] and loss[1, 2] == 7.5 and np.array_equal(loss, loss.T)
    assert find_groups(loss, loss - 0.5, limit=2.0) == [[0, 1], [2]]
    assert find_groups(loss, loss - 0.5, limit=0.5) == [[0], [1], [2]]
    assert find_groups(loss, loss - 9.0, limit=0.5) == [[0, 1, 2]], "no loss is sure"
    # 0 fits 1 and 1 fits 2, but 0 and 2 are apart: no chain makes a group.
    chain = np.array([[0.0, 1.0, 5.0], [1.0, 0.0, 2.0], [5.0, 2.0, 0.0]])
    assert find_groups(chain, chain, limit=3.0) == [[0, 1], [2]]


def test_files_say_what_was_found(matrix, tmp_path):
    pytest.importorskip("matplotlib")
    files = write_crossplay(matrix, tmp_path / "out")
    assert [file.name for file in files] == [f"crossplay.{form}" for form in ("json", "csv", "svg", "png")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(file.name for file in files)
    told = json.loads(files[0].read_text())
    assert told["order"] == [0, 2, 1, 3] and told["runs"][1]["name"] == "rendezvous-right-0"
    rows = list(csv.DictReader(io.StringIO(csv_of(matrix))))
    assert len(rows) == 16 and rows[1]["row"] == "rendezvous-left-0" and rows[1]["column"] == "rendezvous-right-0"
    for row in rows:
        i, j = (next(k for k, run in enumerate(told["runs"]) if run["name"] == row[name]) for name in ("row", "column"))
        assert float(row["return"]) == told["return"][i][j] and float(row["agreement"]) == told["agreement"][i][j]
        assert float(row["normalized_low"]) == told["normalized_low"][i][j] <= told["normalized_return"][i][j]
        assert int(row["same_group"]) == (i % 2 == j % 2)
    gap = told["summary"]["gap"]
    expert, random = told["reference"]["expert"], told["reference"]["random"]
    assert gap["normalized_return"] == pytest.approx(100 * gap["return"] / (expert - random), abs=1e-4)
    svg, png = files[2].read_text(), files[3].read_bytes()
    assert "rendezvous-left-0" in svg and "run of agent_1" in svg and png.startswith(b"\x89PNG")
    lines = lines_of(matrix)
    assert lines[2].split()[:2] == ["1", "rendezvous-left-0"] and any(line.startswith("gap") for line in lines)


def test_a_place_that_cannot_be_written_to_is_told_before_anybody_plays(meeting, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(crossplay_module, "crossplay", None)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(SystemExit) as end:
            main(["crossplay", *meeting[:2], "--out", str(out)])
        assert end.value.code == 2 and f"--out {out} cannot be written to" in capsys.readouterr().err


def test_two_runs_alone_say_nothing_of_others(meeting):
    found = crossplay(meeting[:2], episodes=5)
    assert "starts alone" in found.covers and found.summary["within"] is None
    assert found.summary["across"].mean == found.summary["cross_play"].mean


def test_runs_meet_in_an_environment_that_is_named_with_its_settings(tmp_path, monkeypatch):
    pytest.importorskip("mpe2")
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    here = {"environment": "simple-spread", "env_settings": {"N": 2}}
    played = play_uniformly(find_environment_task(*here.values(), 6, permit=ImportPath), 60)
    data = saved(tmp_path, replace(played, metadata={**played.metadata, "settings": {"N": 2}, "max_steps": 6}))
    for name, place in (("own", {}), ("there", {**here, "max_steps": 8}), ("too", {**here, "max_steps": 8})):
        small_run(tmp_path / name, data, steps=1, final_episodes=1, **place)
    own, there, too = (str(tmp_path / name) for name in ("own", "there", "too"))
    with pytest.raises(DataError, match="cannot play together"):
        crossplay([own, there], episodes=2)
    assert len(crossplay([there, too], episodes=2).players) == 2
    for most in (6, 7, 8):
        choice = EnvironmentChoice(**here, max_steps=most)
        assert len(crossplay([own, there], episodes=2, choice=choice).players) == 2


def test_what_cannot_meet_is_refused_in_a_sentence(meeting, colours, tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    with pytest.raises(ConfigError, match="crossplay needs at least two runs"):
        crossplay(meeting[:1])
    with pytest.raises(ConfigError, match="rendezvous-left-0 is named twice"):
        crossplay([meeting[0], f"{meeting[0]}/../rendezvous-left-0"])
    with pytest.raises(RunFolderError, match="nowhere holds no run"):
        crossplay([meeting[0], tmp_path / "nowhere"])
    with pytest.raises(DataError, match="cannot play together: .* not the same environment, shared among agents"):
        crossplay([meeting[0], colours[0]])
    data = saved(tmp_path, world("continuous"))
    for seed in (0, 1):
        small_run(tmp_path / f"data-{seed}", data, steps=1, seed=seed)
    with pytest.raises(DataError, match="data-0 cannot play: no environment belongs to its data"):
        crossplay([tmp_path / "data-0", tmp_path / "data-1"])


def test_a_run_that_is_not_finished_plays_as_it_stands_and_is_named(meeting, tmp_path):
    data = Path(meeting[0]).parent / "rendezvous-left.safetensors"
    start_and_kill(tmp_path / "half", str(data), 25, checkpoint_every=20)
    found = crossplay([meeting[0], tmp_path / "half"], episodes=3)
    assert found.notes == ("half is unfinished: its step 20 plays.",) and not found.players[1].finished
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunFolderError, match="early holds no checkpoint yet"):
        patch.setattr(crossplay_module, "play", None)
        start_and_kill(tmp_path / "early", str(data), 5, checkpoint_every=20)
        crossplay([meeting[0], tmp_path / "early"], episodes=3)


def test_an_environment_that_fails_is_named(meeting, monkeypatch, capsys):
    def failing(self, actions):
        raise OSError("the simulator lost its licence")

    monkeypatch.setattr(ClockedTeam, "step", failing)
    with pytest.raises(SystemExit) as end:
        main(["crossplay", meeting[0], meeting[1], "--episodes", "2"])
    assert end.value.code == 1
    told = capsys.readouterr().err
    assert "rendezvous failed in a step: OSError: the simulator lost its licence" in told and "Traceback" not in told


def test_names_tell_runs_apart(meeting, tmp_path):
    twin = tmp_path / "rendezvous-left-0"
    twin.symlink_to(meeting[1])
    found = crossplay([meeting[0], meeting[2]], episodes=1)
    assert [player.name for player in found.players] == ["rendezvous-left-0", "rendezvous-left-1"]


def test_the_committed_matrix_has_two_blocks():
    with RESULTS.open() as stream:
        rows = list(csv.DictReader(stream))
    runs = {row["row"] for row in rows}
    assert len(rows) == len(runs) ** 2 and len(runs) == 12
    for row in rows:
        one, other = (row[name].split("_")[1] for name in ("row", "column"))
        assert (one == other) == bool(int(row["same_group"]))
        assert float(row["normalized_return"]) > 75 if one == other else float(row["normalized_high"]) < 55
        assert float(row["agreement"]) > 0.8 if one == other else float(row["agreement"]) < 0.2


@pytest.mark.slow
@pytest.mark.mujoco
def test_the_arms_conventions_show_as_blocks(tmp_path):
    pytest.importorskip("mujoco")
    runs = []
    for convention in ("clockwise", "counterclockwise"):
        for seed in (0, 1):
            out, data = tmp_path / f"{convention}_{seed}", f"reacher-scripted-{convention}-v0_2x1notip_0"
            small_run(out, data, seed=seed, steps=1_000, hidden=[64, 64], batch_size=128, lr=1e-3, final_episodes=1)
            runs.append(out)
    found = crossplay(runs, episodes=30)
    assert [group.members for group in found.groups] == [(0, 1), (2, 3)]
    assert [group.convention for group in found.groups] == ["clockwise", "counterclockwise"]
    told = {name: each for name, each in found.summary.items()}
    assert told["within"].mean > told["self_play"].low, "who shares a convention loses next to nothing"
    assert told["across"].high < told["within"].low and told["gap"].mean > 2
    assert told["self_play"].mean - told["across"].mean > 3
    same = same_group([(0, 1), (2, 3)])
    assert found.agreement[same].min() > 0.8 and found.agreement[~same].max() < 0.2
