from __future__ import annotations

import json
from pathlib import Path

import pytest

from offline_marl.report.crossplay import files
from offline_marl.tasks import environment_tasks
from offline_marl.training import training_run


def test_runs_play_together_from_the_command_line(cli, monkeypatch):
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    monkeypatch.setattr(files, "draw_matrix", lambda *_: None)
    for expert in ("red", "blue"):
        assert (
            cli("collect", "coordination", "--episodes", 5, "--who", expert, "--out", f"{expert}.safetensors").code == 0
        )
        flags = ["--steps", 2, "--hidden", 8, "--device", "cpu", "--final-episodes", 1, "--eval-every", 0]
        assert cli("train", "bc", "--dataset", f"{expert}.safetensors", "--out", f"runs/{expert}", *flags).code == 0
    said = cli("crossplay", "runs/red", "runs/blue", "--episodes", 3)
    assert "warning: no picture: pip install 'offline-marl[report]'" in said.err
    assert said.code == 0 and "1 red" in said.out and "over 3 starts in coordination" in said.out
    told = json.loads(Path("runs/crossplay/crossplay.json").read_text())
    assert [run["name"] for run in told["runs"]] == ["red", "blue"] and told["episodes"] == 3
    assert cli("crossplay", "runs/red", "runs/blue", "--episodes", 2, "--out", "there").code == 0
    assert json.loads(Path("there/crossplay.json").read_text())["episodes"] == 2


def test_bad_words_are_answered_in_a_sentence(cli):
    assert "crossplay needs at least two runs" in cli("crossplay", "runs/x").error
    assert "holds no run" in cli("crossplay", "runs/x", "runs/y").error
    assert "crossplay needs" in cli("crossplay").error
    assert "did you mean '--episodes'" in cli("crossplay", "a", "b", "--episods", 3).error


def test_evaluate_films_what_it_scores(cli, monkeypatch):
    pytest.importorskip("imageio_ffmpeg")
    pytest.importorskip("mpe2")
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 50)
    flags = ["--steps", 1, "--max-steps", 3, "--batch-size", 8, "--device", "cpu", "--final-episodes", 1]
    assert cli("train", "ma-ppo", "--environment", "simple-spread", "--out", "run", *flags).code == 0
    said = cli("evaluate", "run", "--episodes", 2, "--video", "two.mp4", "--video-episodes", 2)
    assert said.code == 0 and "two.mp4 (8 pictures, 10 a second)" in said.out and "return" in said.out
    assert Path("two.mp4").stat().st_size > 1000 and Path("two.png").is_file()
    assert "should end in .mp4 or .gif" in cli("evaluate", "run", "--video", "two.webm").error


def test_a_film_that_could_not_be_made_is_told_after_the_score(cli, monkeypatch):
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    flags = ["--steps", 1, "--batch-size", 8, "--device", "cpu", "--final-episodes", 1]
    assert cli("train", "ma-ppo", "--environment", "rendezvous", "--out", "run", *flags).code == 0

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "x.mp4")

    monkeypatch.setattr("offline_marl.films.videos.film", full)
    said = cli("evaluate", "run", "--episodes", 1, "--video", "x.mp4")
    assert said.code == 1 and "return" in said.out
    assert said.error == "error: No film was made: No space left on device: x.mp4."
