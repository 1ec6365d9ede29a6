from __future__ import annotations

import json

from offline_marl.core.errors import INTERRUPTED


def test_what_was_collected_can_be_looked_at_and_trained_on(cli):
    said = cli("collect", "coordination", "--episodes", 9, "--who", "red=2,random=1", "--out", "mine.safetensors")
    assert said.code == 0 and "offline-marl data info mine.safetensors" in said.out
    told = json.loads(cli("data", "info", "mine.safetensors", "--json").out)
    assert (told["episodes"], told["actors"], told["seed"]) == (9, {"red": 6, "random": 3}, 0)
    flags = ["--steps", "2", "--hidden", "8", "--device", "cpu", "--final-episodes", "2", "--eval-every", "0"]
    done = cli("train", "bc", "--dataset", "mine.safetensors", "--out", "run", *flags)
    assert done.code == 0 and "normalized return" in done.out
    again = cli("collect", "coordination", "--episodes", 3, "--who", "run", "--out", "again.safetensors")
    assert again.code == 0
    assert cli("collect", "coordination", "--who", "run", "--out", "mine.safetensors").error == (
        "error: mine.safetensors exists already: choose another --out."
    )


def test_bad_words_are_answered_in_a_sentence(cli):
    assert "collect needs --out FILE" in cli("collect", "coordination").error
    assert "Unknown environment 'cordination'" in cli("collect", "cordination", "--out", "a.safetensors").error
    assert "did you mean '--episodes'" in cli("collect", "coordination", "--episods", 3).error


def test_an_interruption_says_how_to_go_on(cli, monkeypatch):
    from offline_marl.collection.recorder import Recorder

    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "play", stopped)
    said = cli("collect", "coordination", "--out", "a.safetensors")
    assert said.code == INTERRUPTED and "the same command goes on where it stood" in said.err
