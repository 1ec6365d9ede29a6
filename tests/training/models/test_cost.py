"""What a model of a size costs on a CPU: counted arithmetic beside what torch counts, and who is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from offline_marl.core.config import build
from offline_marl.core.types import Batch, Spec
from offline_marl.training.models import cost
from offline_marl.training.models.fit import fit_model
from offline_marl.worldmodels.facts import measure
from offline_marl.worldmodels.marie import Marie, MarieConfig

ROWS, STEPS = 6, 4
PUBLISHED = {"tokens_of": "observations", "tokenizer": "vq", "tokens": 16, "vocabulary": 512, "code_width": 64}
PUBLISHED |= {"hidden": [256, 256], "width": 256, "layers": 10, "heads": 4, "perceiver_layers": 2, "length": 15}


def marie(**settings: Any) -> tuple[Marie, Batch]:
    spec = Spec((5, 5), (2, 2))
    generator = torch.Generator().manual_seed(0)
    obs, after = (torch.randn(ROWS, STEPS, 2, 5, generator=generator) for _ in range(2))
    flags, rewards = torch.zeros(ROWS, STEPS, 2, dtype=torch.bool), torch.randn(ROWS, STEPS, 2, generator=generator)
    cuts = Batch(obs, torch.zeros(ROWS, STEPS, 2, 2), rewards, after, flags, flags)
    facts = measure(spec, *(value.flatten(0, 1) for value in (obs, after, rewards, flags)))
    config = build(MarieConfig, {"batch_size": ROWS, "length": STEPS, "window": 1, "tokens": 3, **settings})
    return Marie(config, facts), cuts


@pytest.mark.parametrize("settings", [{}, {"decoding": "parallel", "members": 1}, {"tokens_of": "observations"}])
def test_what_is_counted_is_what_is_computed(settings: dict[str, Any]) -> None:
    model, cuts = marie(width=32, **settings)
    model.learn("model", cuts)
    with FlopCounterMode(display=False) as counter:
        model.learn("model", cuts)
    assert model.multiplications("model") == pytest.approx(counter.get_total_flops() / 2, rel=0.1)
    carry = model.begin(cuts.map(lambda value: value[:, 0]))
    for _ in range(STEPS // 2):
        with FlopCounterMode(display=False) as counter:
            _, carry = model.step(carry, cuts.actions[:, 0])
    assert model.multiplications("step") * ROWS == pytest.approx(counter.get_total_flops() / 2, rel=0.3)


def test_a_machine_without_a_gpu_is_told_what_the_published_size_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Begun(Exception):
        pass

    def begin(*_: object) -> None:
        raise Begun

    monkeypatch.setattr(cost, "products_a_second", lambda: 5e10)
    monkeypatch.setattr("offline_marl.training.models.fit.FitSession._update", begin)
    given: dict[str, Any] = {"steps": 70_000, "tokenizer_steps": 20_000, "device": "cpu", **PUBLISHED}
    with pytest.raises(Begun):
        fit_model("marie", "rendezvous-mix-v0", out=tmp_path / "large", **given)
    note = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("note:"))
    hours = int(note.split("about ")[1].split(" hours")[0].replace(",", ""))
    assert 100 < hours < 1_000 and "70,000 updates" in note and "--device cuda" in note
    with pytest.raises(Begun):
        fit_model("marie", "rendezvous-mix-v0", out=tmp_path / "small", device="cpu")
    assert "note:" not in capsys.readouterr().err


def test_hours_are_of_updates_and_of_imagined_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = marie()
    monkeypatch.setattr(cost, "products_a_second", lambda: 1e9)
    monkeypatch.setattr(Marie, "multiplications", lambda self, work: {"model": 2e9, "step": 1e6}[work])
    # 3,600 updates of 2e9 and 3.6e6 steps of 1e6 at 3e8 a second: 6.7 + 3.3 hours.
    cost.tell_cost("marie", model, {"model": 3_600}, 3_600_000, "cpu")
    assert (
        "about 10 hours on this CPU for 3,600 updates of the model and 3,600,000 imagined steps"
        in capsys.readouterr().err
    )
    cost.tell_cost("marie", model, {"model": 3_600}, 3_600_000, "cuda")
    cost.tell_cost("marie", model, {"model": 5}, 0, "cpu")
    assert not capsys.readouterr().err


def test_the_speed_of_a_machine_is_a_sensible_number() -> None:
    assert 1e8 < cost.products_a_second() < 1e14
