"""Settings of parts that a run does not have are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import ConfigError
from offline_marl.core.types import Needs
from offline_marl.runs.combinations import refuse_beginning
from offline_marl.runs.config import RunConfig
from offline_marl.runs.unused_flags import IMAGINED_FIELDS, OF_CONSERVATISM, OF_VALUES, _warn_once

VALUES: dict[str, Any] = {
    "fit": {"steps": 5},
    "spread": "max_aleatoric",
    "clip_imagined": False,
    "cutoff_quantile": 0.5,
    "start_share": 0.5,
}
LIVE: dict[str, Any] = {"dataset": None, "environment": "rendezvous"}
TEACHER: dict[str, Any] = {**LIVE, "teacher": "simulated"}


def begin(needs: Needs | None = None, **fields: Any) -> None:
    refuse_beginning(RunConfig(**{"algorithm": "iql", "dataset": "x", **fields}), needs or Needs(view="transitions"))


@pytest.mark.parametrize("name", IMAGINED_FIELDS)
def test_settings_of_imagination_need_a_world_model(name: str) -> None:
    given = {name: VALUES.get(name, 3)}
    with pytest.raises(ConfigError, match=f"^--{name.replace('_', '-')} is of imagined episodes: .* --world-model.$"):
        begin(**given)
    begin(**given, world_model="ensemble")
    begin(Needs(origin="model"), **given)


def test_learners_of_imagined_rows_alone_are_told_that_they_keep_none_to_mix(capsys) -> None:
    begin(rollouts=3, world_model="ensemble")
    begin(Needs(origin="model"), horizon=3)
    assert not capsys.readouterr().err
    begin(Needs(origin="model"), rollouts=3, retain=7)
    assert capsys.readouterr().err.endswith("it reads no --rollouts and no --retain.\n")


@pytest.mark.parametrize(
    ("fields", "mended", "said"),
    [
        ({"reward_caution": 1.0}, {"reward_model": "r"}, "--reward-caution is of a learned reward: it needs"),
        ({"reward_caution": 1.0, **LIVE}, {"teacher": "human"}, "--reward-caution is of a learned reward"),
        ({"reward_offset": 2.0}, {"reward_model": "r"}, "--reward-offset is of a learned reward: it needs"),
        (
            {"reference_weight": 2.0, "reward_model": "r"},
            {"reference_policy": "p"},
            "--reference-weight .* needs a --reference-policy",
        ),
        (
            {"reference_clip": (-1.0, 1.0), "reward_model": "r"},
            {"reference_policy": "p"},
            "--reference-clip .* needs a --reference-policy",
        ),
        (
            {"fit": {"dataset": "y"}, "world_model": "ensemble"},
            {"fit": {}},
            "--fit takes no dataset: a world model is fitted to what its run learns from",
        ),
        ({"action_scale": 2.0, **LIVE}, {"dataset": "x"}, "--action-scale is of recorded actions"),
        ({"clip_actions": True, **LIVE}, {"dataset": "x"}, "--clip-actions is of recorded actions"),
        ({"query_rate": 0.5, **TEACHER}, {"query_schedule": "exponential"}, "--query-rate .* exponential"),
        ({"explore_neighbours": 3, **TEACHER}, {"explore_steps": 9}, "--explore-neighbours measures what"),
        ({"reward_fit": {"holdout": 0.5}, **TEACHER}, {"reward_fit": {}}, "--reward-fit holdout is of a fit that ends"),
    ],
)
def test_settings_of_a_part_need_the_part(fields: dict[str, Any], mended: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        begin(**fields)
    begin(**{**fields, **mended})


def test_who_clones_reads_no_learned_reward() -> None:
    with pytest.raises(ConfigError, match="iql clones what was recorded and reads no rewards: it takes no --reward"):
        begin(Needs(view="transitions", recorded="only"), reward_model="r")


@pytest.mark.parametrize("setting", [{"clip_target": True}, {"reward_scale": "range"}, {"reward_bias": 1.0}], ids=str)
def test_cloning_takes_no_setting_of_rewards(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^--\S+ is of rewards, and bc reads none: leave it away.$"):
        begin(Needs(recorded="only"), algorithm="bc", settings=setting)
    begin(settings=setting)
    begin(Needs(recorded="only"), algorithm="bc", settings={"gamma": 0.5})


def test_learners_of_boxes_take_no_setting_of_choices() -> None:
    setting = {"epsilon_end": 0.05}
    with pytest.raises(ConfigError, match="^--epsilon-end is of choices, and omar learns in boxes alone"):
        begin(Needs(actions=frozenset({"continuous"})), algorithm="omar", settings=setting)
    begin(algorithm="cql", settings=setting)
    begin(Needs(actions=frozenset({"continuous"})), algorithm="of-ones-own", settings=setting)


@pytest.mark.parametrize("algorithm", ["vdn", "qmix"])
@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("cql", {"cql_alpha": 5.0}),
        ("cql", {"cql_samples": 4}),
        ("cql", {"cql_temperature": 2.0}),
        ("bcq", {"bcq_threshold": 0.2}),
    ],
    ids=str,
)
def test_settings_of_conservatism_need_its_kind(algorithm: str, kind: str, setting: dict[str, Any]) -> None:
    needs, settings = Needs(view="segments", actions=frozenset({"discrete"})), {"conservative": "none", **setting}
    other = "bcq" if kind == "cql" else "cql"
    for wrong in (settings, {**settings, "conservative": other}):
        with pytest.raises(ConfigError, match=rf"^--\S+ is read with --conservative {kind} alone: give that too\.$"):
            begin(needs, algorithm=algorithm, settings=wrong)
    begin(needs, algorithm=algorithm, settings={**settings, "conservative": kind})
    begin(algorithm="cql", settings=setting)


def test_cloning_warns_once_of_settings_of_values_that_sweeps_share(capsys) -> None:
    _warn_once.cache_clear()
    for _ in range(2):
        begin(Needs(recorded="only"), algorithm="bc", settings={"gamma": 0.9, "tau": 0.01})
    begin(Needs(recorded="only"), algorithm="bc", settings=dict(OF_VALUES))
    begin(settings={"gamma": 0.9})
    assert capsys.readouterr().err == "warning: bc learns no values: it reads no --gamma and no --tau.\n"


def test_settings_that_are_not_given_are_known_by_their_defaults() -> None:
    held = {name: field.default for name, field in algorithms.get("vdn").Config.model_fields.items()}
    for fields in (OF_VALUES, *OF_CONSERVATISM.values()):
        assert {name: held[name] for name in fields} == fields
