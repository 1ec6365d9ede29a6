from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from worlds import saved, world

from offline_marl.preferences.answers import AnswerStore
from offline_marl.preferences.label_store import NAME

KILLS = 100
SCRIPT = Path(__file__).parents[1] / "support" / "label_killing.py"


@pytest.mark.slow
def test_of_a_hundred_kills_of_server_and_trainer_no_label_is_lost_and_none_is_doubled(tmp_path) -> None:
    data, folder = saved(tmp_path, world("continuous", episodes=200)), tmp_path / "pairs"
    words = [sys.executable, str(SCRIPT), str(folder), data, str(KILLS), "3"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), *sys.path])}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert sum(told["kills"].values()) == KILLS and min(told["kills"].values()) > 20
    with AnswerStore(folder / NAME) as store:
        rows = store.history()
        labels = [label for _, label in rows]
        assert store._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        pairs = store.pairs()
    stored = {(label.annotator, f"pair.{label.pair_id}.{label.target}.{label.repeat}"): label for label in labels}
    assert len(stored) == len(labels), "no label twice"
    acknowledged = [(who, *one[:2]) for who, those in told["acknowledged"].items() for one in those]
    assert len(acknowledged) > 300 and len({(who, question) for who, question, _ in acknowledged}) == len(acknowledged)
    for who, question, answer in acknowledged:
        label = stored[who, question]
        swapped = {"first": "second", "second": "first"} if label.shown_order == "swapped" else {}
        assert label.answer == swapped.get(answer, answer), "what was acknowledged is stored as it was meant"
    # One answer of each person may have been on its way when all ended.
    assert 0 <= len(labels) - len(acknowledged) <= 3
    first = [label for label in labels if not label.repeat]
    assert len({label.pair_id for label in first}) == len(first), "no two people answered one pair"
    read = [json.loads(line) for line in (folder / "read.jsonl").read_text().splitlines() if line.endswith("]")]
    by_number = {number: rest for number, *rest in read}
    known = {number: [label.pair_id, label.annotator, label.repeat, label.answer] for number, label in rows}
    assert all(known[number] == rest for number, rest in by_number.items())
    assert len(read) == len(by_number), "the trainer read no label twice"
    assert len(known) - len(by_number) <= 60, "what it had not read came while it was being started or at the end"
    assert len({one.session for one in pairs}) > 3
