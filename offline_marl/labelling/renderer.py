"""The process that renders clips ahead of their questions: `python -m offline_marl.labelling.renderer FOLDER BYTES`.

It reads lines of JSON, each a list of names that are wanted soon, the first most of all; what it has rendered lies in
the folder's `clips`, of which the oldest are deleted where they would take more than so many bytes.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from offline_marl.core.errors import BadInputError
from offline_marl.core.files import write_atomically
from offline_marl.core.types import Batch
from offline_marl.environments.base import Frame
from offline_marl.environments.painting import Color
from offline_marl.labelling.clips import NAME, clip_of
from offline_marl.labelling.makeshift import AGAIN, clips_of, forget_old, makeshift
from offline_marl.labelling.places import Scene, replays_of, scene_of
from offline_marl.labelling.replays import Replays
from offline_marl.preferences.pairs import Copies, SegmentKey
from offline_marl.training.preferences.folders import ComparisonFolder, masked

MOST_WANTED = 200
"""Clips that wait to be rendered; what was wanted longest ago is forgotten, and asked for again by who needs it."""
NICE = 10
"""Politeness: whoever answers comes before what may be watched later."""
KEPT_ROUNDS = 2
"""Rounds of copies that are kept in memory."""


class Renderer:
    """Clips of one folder of comparisons.

    Args:
        path: The folder.
        room: Bytes that its clips may take.
    """

    def __init__(self, path: Path, room: int) -> None:
        self.folder, self.room = ComparisonFolder(path), room
        self.clips = clips_of(path)
        self._homes: dict[str, tuple[int, SegmentKey]] = {}
        self._rounds: dict[int, Copies] = {}
        self._place: Scene | None = None
        self._replays: Replays | None = None

    def render(self, name: str) -> Path:
        """Render one clip, if it is not there; what had to do without pictures lies apart, as `makeshift` says.

        Raises:
            BadInputError: There is no such segment.
        """
        path, instead = self.clips / f"{name}.json", makeshift(self.clips, name)
        if path.is_file():
            return path
        if instead.is_file():
            os.utime(instead)  # the shelf asks again a while later
            return instead
        segment, target = name.split(".")
        session, key = self._home(segment)
        copies = self._round(session)
        row = copies.keys.index(key)
        cut = _cut(copies.segments, row)
        scene = self._scene()
        # Of what a run played nobody keeps the seeds.
        again = None if key.source.startswith("run:") else partial(self._play_again, key)
        content = clip_of(cut, copies.spec, target, scene.env, scene.scenario, _limits(copies.segments), again)
        made = json.loads(content)
        if made.get("again") or (made["kind"] == "series" and scene.env is None and scene.may_come):
            path = instead
        write_atomically(path, content)
        prune(self.clips, self.room, keep={path.name})
        return path

    def _home(self, segment: str) -> tuple[int, SegmentKey]:
        if segment not in self._homes:
            for one in self.folder.store.pairs():
                for key in (one.pair.first, one.pair.second):
                    self._homes.setdefault(key.id, (one.session, key))
        if segment not in self._homes:
            raise BadInputError(f"There is no segment {segment}.")
        return self._homes[segment]

    def _round(self, session: int) -> Copies:
        if session not in self._rounds:
            while len(self._rounds) >= KEPT_ROUNDS:
                del self._rounds[next(iter(self._rounds))]
            self._rounds[session] = Copies.load(self.folder.file_of(session))
        return self._rounds[session]

    def _play_again(self, key: SegmentKey, colors: Sequence[Color], every: int) -> list[Frame]:
        """Pictures of a segment that nothing could restore; the data is opened for the first one."""
        env = self._scene().env
        assert env is not None
        if self._replays is None:
            self._replays = replays_of(self.folder, env)
        return self._replays.frames(key, colors, every)

    def _scene(self) -> Scene:
        if self._place is None:
            self._place = scene_of(self.folder)
        return self._place


def _cut(segments: Batch, row: int) -> Batch:
    """The steps of one segment, without those behind its end."""
    one = masked(segments).map(lambda value: value[row])
    assert one.mask is not None
    steps = int(one.mask.any(-1).sum())
    return one.map(lambda value: value[: max(steps, 1)])


def _limits(segments: Batch) -> list[tuple[float, float]]:
    flat = segments.obs.flatten(0, -2)
    return list(zip(flat.amin(0).tolist(), flat.amax(0).tolist(), strict=True))


def prune(folder: Path, room: int, keep: Iterable[str] = ()) -> None:
    """Delete the clips that were longest not asked for, until the others take no more than so many bytes."""
    files = []
    for file in folder.glob("*.json"):
        try:
            status = file.stat()
        except FileNotFoundError:
            continue
        files.append((status.st_mtime, status.st_size, file))
    total, kept = sum(size for _, size, _ in files), set(keep)
    for _, size, file in sorted(files):
        if total <= room:
            break
        if file.name not in kept:
            file.unlink(missing_ok=True)
            total -= size


def main(path: str, room: str) -> None:
    """Render what is wanted, until nobody writes lines any more."""
    torch.set_num_threads(1)
    os.nice(NICE)
    renderer, wanted = Renderer(Path(path), int(room)), list[str]()
    forget_old(renderer.clips)
    failed: dict[str, float] = {}
    buffered = b""
    while True:
        while not wanted or select.select([0], [], [], 0)[0]:
            piece = os.read(0, 1 << 16)
            if not piece:
                return
            *lines, buffered = (buffered + piece).split(b"\n")
            for line in lines:
                names = [name for name in json.loads(line) if NAME.fullmatch(name)]
                wanted = list(dict.fromkeys([*names, *wanted]))[:MOST_WANTED]
        attempt(renderer, wanted.pop(0), failed, time.monotonic())


def attempt(renderer: Renderer, name: str, failed: dict[str, float], now: float) -> None:
    """Render a clip, or let it say why it cannot be drawn; one that failed is left alone for a while.

    Args:
        renderer: Draws it.
        name: Of the clip.
        failed: Clips that failed, and when; this one is added or taken away.
        now: Seconds of a clock.
    """
    if name in failed:
        if now < failed[name] + AGAIN:
            return
        makeshift(renderer.clips, name).unlink(missing_ok=True)
        del failed[name]
    try:
        renderer.render(name)
    except Exception as error:
        failed[name] = now
        _fail(makeshift(renderer.clips, name), error)


def _fail(path: Path, error: Exception) -> None:
    """Let a clip that cannot be drawn say so, and the process go on with others."""
    reason = str(error).partition("\n")[0] or type(error).__name__
    content: dict[str, Any] = {"kind": "none", "frames": 1, "fps": 1, "every": 1, "steps": 0, "agents": []}
    try:
        write_atomically(path, json.dumps({**content, "note": f"This clip cannot be drawn: {reason}"}).encode())
    except OSError as full:
        print(f"clips cannot be written: {full}", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
