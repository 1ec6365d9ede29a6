"""The big promise: a run killed at any moment, any number of times, ends as a run that was never disturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import killing
import pytest
from runs import checkpoints, ending, leftovers, refuse_difference, score_in_point_env, small_run
from warm import Warm
from worlds import saved, world

STEPS = 700


LIVE: dict[str, dict[str, Any]] = {
    "beside data": {"online": True, "replay_copies": 3, "window": 2, "updates_per_step": 0.7},
    "on disk": {"online": True, "memory": 1e-6, "replay_capacity": 60},
    "recurrent": {"algorithm": "vdn", "environment": "coordination", "warmup_steps": 40, "replay_capacity": 80},
}
"""Fields of runs that play while they are killed."""


def kill_again_and_again(
    out: Path, data: str, fields: dict[str, Any], kills: int, steps: int, warm: Warm | None = None
) -> None:
    """Kill a run so many times, go on each time, and see that it got on between."""
    arguments = [killing.__file__, str(out), data, str(kills), "20231", str(steps), json.dumps(fields)]
    paths = [str(Path(killing.__file__).parent), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if warm is None:
        done = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=600)
    else:
        done = warm.run(*arguments, env=env)
    assert done.returncode == 0, done.stderr + out.with_suffix(".log").read_text()
    stood = json.loads(done.stdout)["stood"]
    assert len(stood) == kills, f"the run ended after {len(stood)} kills: give it more steps"
    assert stood == sorted(stood) and len(set(stood)) > kills // 3, "it should have got on between kills"


@pytest.mark.parametrize(
    ("kills", "steps"), [(6, 300), pytest.param(21, STEPS, marks=pytest.mark.slow)], ids=["often", "over-twenty-times"]
)
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_never_been_disturbed(
    tmp_path, monkeypatch, warm, kills, steps
):
    data = saved(tmp_path, world("continuous"))
    kill_again_and_again(tmp_path / "killed", data, {}, kills, steps, warm if kills < 20 else None)
    score_in_point_env(monkeypatch)
    small_run(tmp_path / "straight", data, steps=steps, **killing.FIELDS)
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "killed"))
    assert not leftovers(tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("name", LIVE)
def test_a_run_that_plays_ends_the_same_after_twenty_kills(tmp_path, monkeypatch, name):
    fields = LIVE[name]
    data = saved(tmp_path, world("continuous")) if "online" in fields else ""
    kill_again_and_again(tmp_path / "killed", data, fields, 20, STEPS)
    score_in_point_env(monkeypatch)
    small_run(tmp_path / "straight", data or None, steps=STEPS, **{**killing.FIELDS, **fields})
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "killed"))
    assert not leftovers(tmp_path / "killed")
    files = [
        sorted(path.name for path in (tmp_path / out / "replay").glob("episodes_*")) for out in ("straight", "killed")
    ]
    assert files[0] == files[1] and (len(files[0]) < STEPS / 10) == ("replay_capacity" in fields)


@pytest.mark.slow
def test_the_command_line_goes_on_after_kills_as_if_they_had_not_been(tmp_path):
    data = saved(tmp_path, world("continuous"))
    fields = {"steps": 1500, "checkpoint_every": 100, "log_every": 70, "hidden": "16,16", "batch_size": 32}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in fields.items()]
    chance = random.Random(3)

    def start(out: Path, *arguments: str) -> subprocess.Popen:
        with out.with_suffix(".log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "offline_marl", *arguments], stdout=log, stderr=log)

    def train(out: Path) -> subprocess.Popen:
        return start(out, "train", "iql", "--dataset", data, "--out", str(out), "--device=cpu", *flags)

    killed, straight = tmp_path / "killed", tmp_path / "straight"
    undisturbed = train(straight)
    process = train(killed)
    for _ in range(2):
        stood = checkpoints(killed)[:1]
        while checkpoints(killed)[:1] == stood:
            assert process.poll() is None, killed.with_suffix(".log").read_text()
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL, "it ended before it could be killed: give it more steps"
        process = start(killed, "resume", str(killed))
    assert process.wait(120) == 0, killed.with_suffix(".log").read_text()
    assert undisturbed.wait(120) == 0, straight.with_suffix(".log").read_text()
    refuse_difference(ending(straight), ending(killed))


@pytest.mark.parametrize("name", ["config.json", "versions.json"])
def test_a_run_killed_while_it_wrote_down_what_it_is_can_be_begun_again(tmp_path, monkeypatch, name):
    from offline_marl.runs import folder

    class Killed(BaseException):
        pass

    def dying(path, content):
        if path.name == name:
            path.with_name(f".{name}.x.part").write_text("{")
            raise Killed
        write(path, content)

    write = folder.write_json
    data = saved(tmp_path, world("continuous"))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(folder, "write_json", dying)
        small_run(tmp_path / "run", data)
    small_run(tmp_path / "run", data)
    assert not leftovers(tmp_path / "run")
