from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from worlds import saved, world

from offline_marl.core.types import Batch, DataError, Spec
from offline_marl.datasets.base import Dataset
from offline_marl.environments.base import NoPictureError
from offline_marl.labelling.clips import GREY, MOST_FRAMES, clip_of, sheet_of
from offline_marl.labelling.places import Scene
from offline_marl.labelling.positions import places_of, world_of
from offline_marl.labelling.renderer import Renderer, attempt, prune
from offline_marl.labelling.replays import Replays
from offline_marl.labelling.shelf import Shelf
from offline_marl.preferences.labels import AskedPair
from offline_marl.preferences.pairs import Copies, Pair, SegmentKey
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training.preferences.asking import Plan, ask, enter
from offline_marl.training.preferences.folders import ComparisonFolder

SPEC = Spec((3, 2), (1, 2))


def segment(steps: int = 6, spec: Spec = SPEC, state: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(steps)
    obs = torch.randn(steps, spec.n_agents, spec.obs_dim, generator=generator)
    actions = torch.rand(steps, spec.n_agents, spec.act_dim, generator=generator)
    flags = torch.zeros(steps, spec.n_agents, dtype=torch.bool)
    shown = torch.arange(float(steps)).unsqueeze(-1) if state else None
    return Batch(obs, actions, flags.float(), obs, flags, flags, state=shown, mask=~flags)


class Camera:
    """An environment whose picture is as bright as its state says, in the colours it was told."""

    fps, colors = 20.0, ()

    def paint(self, colors):
        self.colors = colors

    def restore(self, state):
        self.state = state

    def render(self):
        frame = np.full((400, 600, 3), int(self.state[0, 0]) % 250, np.uint8)
        frame[:50] = self.colors[0]
        frame[-50:] = self.colors[1]
        return frame


def frames_of(clip) -> list[np.ndarray]:
    from PIL import Image

    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(clip["sheet"].partition(",")[2]))))
    high, wide = clip["height"], clip["width"]
    places = [divmod(number, clip["columns"]) for number in range(clip["frames"])]
    return [sheet[row * high : (row + 1) * high, column * wide : (column + 1) * wide] for row, column in places]


def test_every_recorded_state_is_a_picture_in_order() -> None:
    clip = json.loads(clip_of(segment(30, state=1), SPEC, "team", Camera(), "body"))
    assert (clip["kind"], clip["frames"], clip["fps"], clip["every"]) == ("frames", 30, 20.0, 1)
    assert (clip["width"], clip["height"]) == (288, 192)
    middles = [frame[96, 144].mean() for frame in frames_of(clip)]
    assert np.allclose(middles, range(30), atol=3)


def test_long_segments_are_bounded_and_keep_their_pace() -> None:
    clip = json.loads(clip_of(segment(1000, state=1), SPEC, "team", Camera(), "body"))
    assert clip["frames"] <= MOST_FRAMES and clip["frames"] / clip["fps"] == pytest.approx(1000 / 20, rel=0.02)


def test_the_agent_that_a_question_is_about_keeps_its_colour_and_the_others_are_grey() -> None:
    team, second = (
        frames_of(json.loads(clip_of(segment(state=1), SPEC, target, Camera(), "body")))[0]
        for target in ("team", "agent_1")
    )
    assert np.abs(second[5, 100].astype(int) - GREY).max() < 12
    assert np.abs(team[5, 100].astype(int) - GREY).max() > 60
    assert np.abs(team[-5, 100].astype(int) - second[-5, 100]).max() < 12


def test_numbers_are_drawn_where_a_simulator_cannot_be_put_into_states() -> None:
    class Fixed(Camera):
        def restore(self, state):
            raise DataError("It cannot be put into states.")

    clip = json.loads(clip_of(segment(state=1), SPEC, "team", Fixed(), "body"))
    assert clip["kind"] == "series" and clip["note"] == "It cannot be put into states."

    def unknown(colors, every):
        raise DataError("There is no such data.")

    again = json.loads(clip_of(segment(state=1), SPEC, "team", Fixed(), "body", replay=unknown))
    assert again["note"] == "It cannot be put into states.", "the first reason is the one to mend"
    assert [row["name"] for row in clip["rows"]] == ["agent_0 sees", "agent_0 does", "agent_1 sees", "agent_1 does"]
    assert [len(row["values"]) for row in clip["rows"]] == [3, 1, 2, 2] and len(clip["rows"][0]["values"][0]) == 6
    assert all(0 <= value <= 1 for row in clip["rows"] for line in row["values"] for value in line)


@pytest.mark.parametrize(
    "name",
    [
        "simple-spread",
        "simple-tag",
        "simple-tag-prey",
        "simple-reference",
        "simple-adversary",
        "simple-speaker-listener",
        "simple",
        "simple-push",
        "simple-world-comm",
        "simple-spread-continuous",
    ],
)
def test_places_are_where_the_world_itself_has_its_bodies(name) -> None:
    pytest.importorskip("mpe2")
    from offline_marl.environments.base import environments

    env = environments.get(name).make(None, 1)
    try:
        seen = env.reset([7])
        shown = [seen.obs[0]]
        raw = env._envs[0].unwrapped.world
        moving = [agent for agent in raw.agents if agent.movable]
        marks = [mark for mark in raw.landmarks if not getattr(mark, "boundary", False)]
        truth = [[agent.state.p_pos.copy() for agent in moving]]
        for _ in range(5):
            if env.spec.discrete:
                actions = np.ones((1, env.spec.n_agents), np.int64)
            else:
                actions = np.full((1, env.spec.n_agents, env.spec.act_dim), 0.4, np.float32)
            shown.append(env.step(actions)[0].obs[0])
            truth.append([agent.state.p_pos.copy() for agent in moving])
        layout = world_of(name, env.spec.n_agents)
        bodies, landmarks = places_of(layout, np.array(shown))
        true_marks = np.array([mark.state.p_pos for mark in marks])[: layout.landmarks]
        # Where nobody sees where it is itself, everything stands as it does but for one shift.
        shift = true_marks.mean(0) if all(view is None or view.own is None for view in layout.views) else 0.0
        known = [agent for agent in range(env.spec.n_agents) if layout.view(agent) is not None]
        expected = np.array(truth)[:, : len(known)]  # the prey that is part of a task is seen by nobody as itself
        assert np.allclose(bodies[:, known] + shift, expected, atol=1e-4)
        assert np.allclose(landmarks + shift, true_marks, atol=1e-4)
    finally:
        env.close()


def test_worlds_whose_agents_stand_still_have_no_places() -> None:
    assert world_of("simple-crypto", 3) is None and world_of("rendezvous", 2) is None


def test_agents_that_are_away_are_not_drawn() -> None:
    spec = Spec((18, 18, 18), (5, 5, 5), action_kind="discrete")
    one = segment(4, spec)
    mask = one.mask.clone()
    mask[2:, 1] = False
    clip = json.loads(clip_of(one, spec, "team", None, "simple-spread"))
    assert clip["kind"] == "positions" and len(clip["places"]) == 3 and len(clip["landmarks"]) == 3
    gone = json.loads(clip_of(replace(one, mask=mask), spec, "team", None, "simple-spread"))
    assert gone["places"][1][2:] == [None, None] and gone["places"][0] == clip["places"][0]


def test_clips_take_no_more_room_than_they_may_and_the_oldest_go_first(tmp_path) -> None:
    for number in range(6):
        file = tmp_path / f"{number}.json"
        file.write_bytes(b"x" * 100)
        os.utime(file, (1000 + number, 1000 + number))
    prune(tmp_path, 350, keep={"0.json"})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0.json", "4.json", "5.json"]


def test_a_renderer_writes_clips_of_a_folder_within_its_room(tmp_path) -> None:
    data = saved(tmp_path, world("continuous", episodes=20))
    with ComparisonFolder(tmp_path / "pairs", make=True) as folder:
        ask(folder, open_task(data), Plan(budget=20, length=3))
        keys = [key for one in folder.store.pairs() for key in (one.pair.first, one.pair.second)]
    renderer = Renderer(tmp_path / "pairs", room=4_000)
    for key in keys:
        path = renderer.render(f"{key.id}.team")
        clip = json.loads(path.read_bytes())
        assert clip["steps"] == 3 and clip["frames"] == 3
        time.sleep(0.002)
    left = list(renderer.clips.iterdir())
    assert 0 < sum(file.stat().st_size for file in left) <= 4_000 and not any(".part" in file.name for file in left)
    with pytest.raises(Exception, match="no segment"):
        renderer.render("0" * 32 + ".team")
    renderer.folder.store.close()


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A renderer, the names of two clips, and what goes wrong while the first pictures are made."""
    data = saved(tmp_path, world("continuous", episodes=20))
    with ComparisonFolder(tmp_path / "pairs", make=True) as folder:
        ask(folder, open_task(data), Plan(budget=2, length=3))
        pair = folder.store.pairs()[0].pair
    made = Renderer(tmp_path / "pairs", room=10**6)
    made.clips.mkdir(parents=True)
    trouble: list[Exception | str] = []

    def clip(*_: object) -> bytes:
        wrong = trouble.pop() if trouble else ""
        if isinstance(wrong, Exception):
            raise wrong
        return json.dumps({"kind": "frames", "note": wrong, "again": bool(wrong)}).encode()

    monkeypatch.setattr("offline_marl.labelling.renderer.clip_of", clip)
    yield made, [f"{key.id}.team" for key in (pair.first, pair.second)], trouble
    made.folder.store.close()


def test_a_clip_that_failed_is_drawn_again_a_minute_later(drawn) -> None:
    renderer, (name, _), trouble = drawn
    failed: dict[str, float] = {}
    trouble.append(OSError(28, "No space left on device"))
    for now in (1000.0, 1059.0):
        attempt(renderer, name, failed, now)
        (file,) = renderer.clips.iterdir()
        assert "No space left" in json.loads(file.read_bytes())["note"] and failed == {name: 1000.0}
    attempt(renderer, name, failed, 1061.0)
    assert failed == {} and [file.name for file in renderer.clips.iterdir()] == [f"{name}.json"]


def test_a_clip_without_its_pictures_is_drawn_anew_by_the_next_server(drawn) -> None:
    renderer, (name, other), trouble = drawn
    trouble.append("Pictures need an extra.")
    for _ in range(2):
        file = renderer.render(name)
        assert "extra" in json.loads(file.read_bytes())["note"], "one server draws it once"
    renderer.render(other)
    shelf = Shelf(renderer.folder.path, 10**6)  # the extra was installed, and the server started again
    assert [path.name for path in renderer.clips.iterdir()] == [f"{other}.json"]
    assert json.loads(renderer.render(name).read_bytes())["note"] == ""
    assert asyncio.run(shelf.read(name)) == (renderer.render(name).read_bytes(), True)


def test_a_makeshift_clip_is_shown_does_not_last_and_is_asked_for_again(drawn, monkeypatch) -> None:
    renderer, (name, _), trouble = drawn
    shelf, asked = Shelf(renderer.folder.path, 10**6), []
    trouble.append("Pictures need an extra.")
    file = renderer.render(name)

    async def nobody() -> None:
        asked.append(name)

    monkeypatch.setattr(shelf, "_running", nobody)
    assert asyncio.run(shelf.read(name)) == (file.read_bytes(), False) and asked == []
    os.utime(file, (1000, 1000))
    assert asyncio.run(shelf.read(name)) == (file.read_bytes(), False) and asked == [name]


def test_what_a_run_played_is_not_looked_for_in_data(tmp_path, monkeypatch) -> None:
    keys = [SegmentKey.of_run("it", number, 0, 6) for number in range(2)]
    with ComparisonFolder(tmp_path / "played", make=True) as folder:
        folder.store.state({"task": "reacher"})
        two = Batch.stack([segment(), segment()], 0)
        enter(folder, [AskedPair(Pair(*keys), 1, "train", "uniform")], Copies(SPEC, tuple(keys), two))
    renderer = Renderer(tmp_path / "played", 10**6)
    monkeypatch.setattr(renderer, "_scene", lambda: Scene(Counter(), "reacher"))
    clip = json.loads(renderer.render(f"{keys[0].id}.team").read_bytes())
    renderer.folder.store.close()
    assert (clip["kind"], clip["note"]) == ("series", "")


def test_clips_of_other_versions_are_deleted_and_drawn_anew(drawn) -> None:
    renderer, (name, other), _ = drawn
    renderer.render(other)
    for place in (renderer.clips.parent, renderer.clips.parent / "1"):
        place.mkdir(exist_ok=True)
        (place / f"{name}.json").write_text(json.dumps({"note": "This clip cannot be drawn: No space left on device"}))
    Shelf(renderer.folder.path, 10**6)
    assert [file.name for file in renderer.clips.parent.rglob("*") if file != renderer.clips] == [f"{other}.json"]
    assert json.loads(renderer.render(name).read_bytes())["note"] == ""


class Blind(Camera):
    """What cannot be drawn."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def render(self):
        raise self.error("It has no picture.")


@pytest.mark.parametrize(
    ("scene", "lasts"),
    [
        (Scene(Blind(NoPictureError), "toy"), True),
        (Scene(Blind(DataError), "toy"), False),
        (Scene(None, "toy", may_come=True), False),
        (Scene(None, ""), True),
    ],
)
def test_what_nothing_can_draw_is_kept_and_what_may_be_drawn_another_time_is_not(
    tmp_path, monkeypatch, scene, lasts
) -> None:
    keys = [SegmentKey.of_run("it", number, 0, 6) for number in range(2)]
    with ComparisonFolder(tmp_path / "played", make=True) as folder:
        two = Batch.stack([segment(state=1), segment(state=1)], 0)
        enter(folder, [AskedPair(Pair(*keys), 1, "train", "uniform")], Copies(SPEC, tuple(keys), two))
    renderer, name = Renderer(tmp_path / "played", 10**6), f"{keys[0].id}.team"
    monkeypatch.setattr(renderer, "_scene", lambda: scene)
    file = renderer.render(name)
    renderer.folder.store.close()
    assert json.loads(file.read_bytes())["kind"] == "series"
    assert file.name == (f"{name}.json" if lasts else f"{name}.makeshift.json")


def test_a_sheet_holds_every_picture_at_its_place() -> None:
    frames = [np.full((64, 64, 3), 10 * number, np.uint8) for number in range(20)]
    sheet = sheet_of(frames)
    found = [frame.mean() for frame in frames_of({**sheet, "frames": 20})]
    assert (sheet["columns"], sheet["width"]) == (12, 64) and np.allclose(found, range(0, 200, 10), atol=3)


class Counter:
    """An environment of one agent that draws, cannot be restored, and counts what it was told by its seed."""

    def __init__(self, kind: str = "as recorded") -> None:
        self.kind = kind

    def reset(self, seeds):
        self.total = float(seeds[0]) + (self.kind == "otherwise")
        return self.seen()

    def step(self, actions):
        self.total += float(actions[0, 0, 0])
        return self.seen(), None, None, None

    def seen(self):
        return SimpleNamespace(obs=np.array([[[self.total]]], np.float32))

    def render(self):
        return np.full((20, 20, 3), int(self.total), np.uint8)


def recorded() -> Dataset:
    lengths, actions = torch.tensor([4, 5]), torch.ones(9, 1, 1)
    obs = torch.tensor([10.0, 11, 12, 13, 14, 40, 41, 42, 43, 44, 45]).view(-1, 1, 1)
    data = Dataset.from_arrays(obs, actions, torch.zeros(9, 1), lengths=lengths)
    return replace(data, metadata={"seeds": [10, 40]})


def test_episodes_are_played_again_from_their_seeds_where_nothing_can_be_restored() -> None:
    data, key = recorded(), SegmentKey("x", 1, 2, 3)
    replays = Replays(data, Counter())
    assert [int(frame.mean()) for frame in replays.frames(key, [], 1)] == [42, 43, 44]
    assert [int(frame.mean()) for frame in replays.frames(key, [], 2)] == [42, 44]
    cut = segment(3, Spec((1,), (1,)))
    clip = json.loads(clip_of(cut, Spec((1,), (1,)), "team", Counter(), "x", (), partial(replays.frames, key)))
    assert clip["kind"] == "frames" and [round(frame.mean()) for frame in frames_of(clip)] == pytest.approx(
        [42, 43, 44]
    )


def test_another_episode_than_the_recorded_one_is_never_shown() -> None:
    replays = Replays(recorded(), Counter("otherwise"))
    with pytest.raises(DataError, match="does not go as it was recorded"):
        replays.frames(SegmentKey("x", 0, 0, 2), [], 1)
    spec = Spec((1,), (1,))
    show = partial(replays.frames, SegmentKey("x", 0, 0, 2))
    clip = json.loads(clip_of(segment(2, spec), spec, "team", Counter(), "x", (), show))
    assert clip["kind"] == "series" and "recorded" in clip["note"]
    with pytest.raises(DataError, match="does not name the seeds"):
        Replays(replace(recorded(), metadata={}), Counter())
