"""Clips of segments: pictures of the simulator, places on a canvas, or the numbers themselves; one JSON file each.

Bodies of MuJoCo are put into every recorded state and drawn; MPE's worlds are drawn by the page, from positions. Of
what neither can show, the page draws what agents saw and did, as bands of colour over time.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from offline_marl.core.errors import BadInputError
from offline_marl.core.types import Batch, Spec
from offline_marl.environments.base import Frame, JointEnv, NoPictureError
from offline_marl.environments.painting import FPS, Color
from offline_marl.films.captions import colors_of, import_pillow
from offline_marl.labelling.positions import places_of, world_of
from offline_marl.preferences.labels import TARGET, TEAM

NAME = re.compile(rf"[0-9a-f]{{32}}\.({TARGET.pattern})")
"""Of a clip: the segment, and whose doings it is to show."""
MOST_FRAMES = 120
"""Pictures of a clip; of longer segments not every step is shown."""
SIDE = 288
"""Longer side of a picture, in pixels."""
COLUMNS = 12
"""Pictures of a sheet, side by side."""
QUALITY = 82
GREY: Color = (150, 150, 150)
"""Of agents that a question is not about."""
FEATURES = 24
"""Rows of numbers of one agent that are drawn, at most."""


def title_of(agent: int) -> dict[str, Any]:
    """Name and colour of an agent, as the page shows them."""
    red, green, blue = colors_of(agent + 1)[agent]
    return {"name": f"agent_{agent}", "color": f"rgb({red}, {green}, {blue})"}


def pace(steps: int, fps: float) -> tuple[int, float]:
    """Steps from one picture to the next, and pictures in a second."""
    every = max(1, math.ceil(steps / MOST_FRAMES))
    return every, fps / every


def clip_of(
    segment: Batch,
    spec: Spec,
    target: str,
    env: JointEnv | None,
    scenario: str,
    limits: Sequence[tuple[float, float]] = (),
    replay: Callable[[Sequence[Color], int], list[Frame]] | None = None,
) -> bytes:
    """Draw a clip.

    Args:
        segment: Steps `[time]`, without those behind its end.
        spec: Of the team.
        target: Whose doings it is to show.
        env: One copy of the environment; None where there is none.
        scenario: Its name.
        limits: Least and largest of every number that agents see, over a whole round.
        replay: Plays the segment again where it cannot be restored: its pictures in these colours, every so many steps;
            None of what cannot be played again.

    Returns:
        JSON; its `again` says that there may be pictures another time, when an extra or the data is there.
    """
    note, again, steps = "", False, len(segment)
    about: dict[str, Any] = {"steps": steps, "agents": [title_of(agent) for agent in range(spec.n_agents)]}
    if env is not None and segment.state is not None and hasattr(env, "restore"):
        try:
            return _packed(about | _pictures(segment, env, colors_for(spec, target)))
        except BadInputError as error:
            note, again = str(error), not isinstance(error, NoPictureError)
    world = world_of(scenario, spec.n_agents)
    obs = segment.obs.numpy()
    if world is not None:
        return _packed(about | _positions(obs, world, segment) | {"note": note, "again": again})
    if env is not None and replay is not None and (again or not note):
        try:
            every, fps = pace(steps, float(getattr(env, "fps", FPS)))
            frames = replay(colors_for(spec, target), every)
            return _packed(about | _filmed(frames, every, fps))
        except BadInputError as error:
            again = again or not isinstance(error, NoPictureError)
            note = note or str(error)  # why a state could not be restored comes first
    return _packed(about | _series(obs, segment, spec, limits) | {"note": note, "again": again})


def colors_for(spec: Spec, target: str) -> list[Color]:
    """Colours of the agents; those that a question is not about are grey."""
    colors = colors_of(spec.n_agents)
    if target == TEAM:
        return colors
    return [color if f"agent_{agent}" == target else GREY for agent, color in enumerate(colors)]


def _packed(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def _pictures(segment: Batch, env: JointEnv, colors: Sequence[Color]) -> dict[str, Any]:
    assert segment.state is not None
    if hasattr(env, "paint"):
        env.paint(list(colors))
    every, fps = pace(len(segment), float(getattr(env, "fps", FPS)))
    frames = list[Frame]()
    for row in segment.state.numpy()[::every]:
        env.restore(row[None])  # type: ignore[attr-defined]
        frames.append(env.render())
    return _filmed(frames, every, fps)


def _filmed(frames: Sequence[Frame], every: int, fps: float) -> dict[str, Any]:
    return {"kind": "frames", "frames": len(frames), "fps": fps, "every": every, **sheet_of(frames)}


def sheet_of(frames: Sequence[Frame]) -> dict[str, Any]:
    """All pictures on one sheet, as the address of a JPEG."""
    image_of = import_pillow()[0]
    high, wide = frames[0].shape[:2]
    shrink = min(1.0, SIDE / max(high, wide))
    width, height = max(1, round(wide * shrink)), max(1, round(high * shrink))
    columns = min(COLUMNS, len(frames))
    sheet = image_of.new("RGB", (columns * width, -(-len(frames) // columns) * height))
    for number, frame in enumerate(frames):
        small = image_of.fromarray(frame).resize((width, height), image_of.Resampling.BILINEAR)
        sheet.paste(small, (number % columns * width, number // columns * height))
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=QUALITY, optimize=True)
    address = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return {"width": width, "height": height, "columns": columns, "sheet": address}


def _positions(obs: Any, world: Any, segment: Batch) -> dict[str, Any]:
    every, fps = pace(len(obs), FPS)
    bodies, landmarks = places_of(world, obs)
    mask = None if segment.mask is None else segment.mask.numpy()
    if mask is not None:
        bodies = np.where(mask[..., None], bodies, np.nan)
    return {
        "kind": "positions",
        "frames": len(obs[::every]),
        "fps": fps,
        "every": every,
        "places": _rounded(bodies[::every]),
        "landmarks": _rounded(landmarks[::every]),
    }


def _rounded(places: Any) -> list[list[list[float] | None]]:
    """By body, then by time; None where one is not to be seen."""
    return [
        [None if not np.isfinite(place).all() else [round(float(value), 3) for value in place] for place in body]
        for body in places.swapaxes(0, 1)
    ]


def _series(obs: Any, segment: Batch, spec: Spec, limits: Sequence[tuple[float, float]]) -> dict[str, Any]:
    every, fps = pace(len(obs), FPS)
    acts = segment.actions
    if spec.discrete:
        acts = torch.nn.functional.one_hot(acts, spec.act_dim).float()
    rows = []
    for agent in range(spec.n_agents):
        seen, done = obs[::every, agent, : spec.obs_dims[agent]], acts[::every, agent, : spec.act_dims[agent]].numpy()
        low, high = np.array(limits or [(-1.0, 1.0)] * seen.shape[-1])[: seen.shape[-1]].T
        shown = (seen - low) / np.maximum(high - low, 1e-9)
        done = done if spec.discrete else (done + 1) / 2
        for what, values in (("sees", shown), ("does", done)):
            values = np.nan_to_num(np.clip(values[:, :FEATURES], 0, 1))
            rows.append({"name": f"agent_{agent} {what}", "values": np.round(values.T, 2).tolist()})
    return {"kind": "series", "frames": len(obs[::every]), "fps": fps, "every": every, "rows": rows}
