"""Sets of our own layout under valid checksums, whose metadata, specs, fields and headers are anybody's."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
from arena import WORK, Attack
from worlds import reacher_recording, world

from offline_marl.core.files import HEADER, save_tree
from offline_marl.datasets.base import Dataset, Recording

BOMB = "[" * 100_000 + "]" * 100_000


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


ODD: dict[str, Any] = {
    "none": None,
    "zero": 0,
    "minus one": -1,
    "half": 0.5,
    "true": True,
    "a googol": 10**100,
    "many digits": 10**400,
    "a float beyond": 1e308,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "no word": "",
    "a word": "x",
    "a word of escapes": "\x1b[2J\x00\r",
    "a word of half a pair": "\ud800",
    "a long word": "x" * 200_000,
    "a path": "../../../../etc/passwd",
    "an import path": "os:system",
    "an empty list": [],
    "a list of numbers": [1, 2, 3],
    "a list of words": ["a", "b"],
    "a list of lists": [[]],
    "a list of all sorts": [1, "a", None, {}, [2.5]],
    "a nest": nested(60),
    "a table": {"a": 1},
    "an empty table": {},
    "a table of tables": {"a": {"b": {"c": []}}},
    "a table of no name": {"": None},
}
METADATA = (
    *("name", "scenario", "conf", "view", "task", "quality", "format", "licence", "author", "how", "source"),
    *("source_sha256", "sha256", "episodes_end", "minari_version", "versions", "settings", "max_steps", "reference"),
    *("random_return", "random_interval", "action_noise", "action_scale", "clipped_actions", "dropped_steps", "seed"),
    *("actors", "parts", "who", "noise_levels", "deviators", "seeds", "origin_parts", "origin_episodes", "recipe"),
    *("deviate", "vault", "tier", "reward", "another"),
)
INNER: dict[str, Callable[[Any], dict[str, Any]]] = {
    "reference.random": lambda value: {"reference": {"random": value, "expert": 1.0}},
    "reference.expert": lambda value: {"reference": {"random": 1.0, "expert": value}},
    "reference.note": lambda value: {"reference": {"random": 0.0, "expert": 1.0, "note": value}},
    "versions.env_id": lambda value: {"versions": {"env_id": value}},
    "versions.mujoco": lambda value: {"versions": {"mujoco": value}},
    "actors.name": lambda value: {"actors": [{"name": value}], "who": [0] * 6},
    "actors.episodes": lambda value: {"actors": [{"name": "a", "episodes": value}]},
    "parts.name": lambda value: {"parts": [{"name": value, "episodes": 1}]},
    "who of all": lambda value: {"actors": [{"name": "a"}], "who": [value] * 6},
    "seeds of all": lambda value: {"seeds": [value] * 6},
    "settings.N": lambda value: {"scenario": "simple-spread", "settings": {"N": value}},
    "settings.prey": lambda value: {"scenario": "simple-tag-prey", "settings": {"prey": value}},
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "info": ("data", "info", "x.safetensors"),
    "json": ("data", "info", "x.safetensors", "--json"),
    "verify": ("data", "verify", "x.safetensors"),
    "mix": ("data", "mix", f"{WORK}/m.safetensors", "x.safetensors", "x.safetensors"),
    "train": (*("train", "bc", "--dataset", "x.safetensors", "--steps", "1", "--out", WORK, "--final-episodes", "1"),),
    "convert": ("data", "convert", "x.safetensors", f"{WORK}/c.safetensors"),
}


@cache
def base(kind: str) -> Recording | Dataset:
    return reacher_recording() if kind == "recording" else world(kind, 2)


def tree_of(data: Recording | Dataset) -> dict[str, Any]:
    values = {item.name: getattr(data, item.name) for item in fields(data)}
    values = {name: value for name, value in values.items() if value is not None}
    values["metadata"] = dict(data.metadata)
    if isinstance(data, Dataset):
        values["spec"] = asdict(data.spec)
    return {"layout": 1, "type": type(data).__name__, **values}


def written(change: Callable[[dict[str, Any]], None], kind: str) -> Callable[[Path], None]:
    """Write a set whose tree is changed, with the checksum of what it then is."""

    def write(folder: Path) -> None:
        tree = tree_of(base(kind))
        change(tree)
        save_tree(folder / "x.safetensors", tree, "data set")

    return write


def raw(text: str | bytes, header: Mapping[str, Any] | None = None) -> Callable[[Path], None]:
    """Write a file without tensors, whose header holds this text as its tree, under its checksum."""

    def write(folder: Path) -> None:
        words = text if isinstance(text, str) else text.decode("latin-1")
        digest = hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()
        inner = {"kind": "data set", "tree": words, "sha256": digest}
        head = json.dumps({"__metadata__": {HEADER: json.dumps({**inner, **(header or {})})}}).encode()
        (folder / "x.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)

    return write


def put(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree.update({name: value})


def in_metadata(values: Mapping[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree["metadata"].update(values)


def in_spec(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree["spec"].update({name: value})


def shapes(value: torch.Tensor) -> dict[str, Any]:
    """What may stand in place of a tensor."""
    return {
        "no axis": value.flatten()[:1].squeeze(),
        "no row": value[:0],
        "a row less": value[:-1],
        "an axis more": value.unsqueeze(-1),
        "no width": value.reshape(len(value), -1)[:, :0],
        "one axis": value.reshape(len(value), -1)[:, 0].clone(),
        "doubles": value.double(),
        "bytes": value.to(torch.uint8),
        "booleans": value.bool(),
        "whole numbers": value.long(),
        "ones": torch.ones_like(value),
        "minus ones": -torch.ones_like(value.long()),
        "NaN": torch.full(value.shape, torch.nan),
        "huge": torch.full_like(value, True) if value.dtype == torch.bool else torch.full_like(value, 2**31 - 1),
    }


def trees() -> Iterator[tuple[str, str, Callable[[Path], None]]]:
    """Kind, name, and how it is written."""
    for name in METADATA:
        for what, value in ODD.items():
            yield "metadata of ours", f"{name}: {what}", written(in_metadata({name: value}), "discrete")
    for name, make in INNER.items():
        for what, value in ODD.items():
            yield "metadata of ours", f"{name}: {what}", written(in_metadata(make(value)), "continuous")
    for what, value in ODD.items():
        yield "metadata of ours", f"metadata: {what}", written(put("metadata", value), "discrete")
        for name in ("obs_dims", "act_dims", "state_dim", "action_kind", "window", "another"):
            yield "specs of ours", f"{name}: {what}", written(in_spec(name, value), "discrete")
        yield "specs of ours", f"spec: {what}", written(put("spec", value), "continuous")
        yield "specs of ours", f"widths: {what}", written(in_spec("obs_dims", [value, value]), "continuous")
    for kind in ("recording", "discrete", "continuous"):
        for name, held in tree_of(base(kind)).items():
            for what, value in ODD.items():
                yield "fields of ours", f"{kind}.{name}: {what}", written(put(name, value), kind)
            if isinstance(held, torch.Tensor):
                for what, value in shapes(held).items():
                    yield "fields of ours", f"{kind}.{name}: {what}", written(put(name, value), kind)
    for what, text in TEXTS.items():
        yield "headers of ours", f"tree: {what}", raw(text)
    for name in ("kind", "tree", "sha256"):
        for what, value in ODD.items():
            yield "headers of ours", f"{name}: {what}", raw("[]", {name: value})


TEXTS = {
    "a nest": BOMB,
    "no JSON": "{",
    "nothing": "",
    "a number": "3",
    "a list": "[1]",
    "a word": '"a"',
    "null": "null",
    "a tensor that is not there": '{"__dict__": [["layout", 1], ["type", "Recording"], ["obs", {"__tensor__": "9"}]]}',
    "a tensor of a list": '{"__tensor__": []}',
    "a table of a number": '{"__dict__": 3}',
    "pairs of one": '{"__dict__": [[1]]}',
    "keys that are lists": '{"__dict__": [[[1], 2]]}',
    "another table": '{"a": 1}',
    "digits": "9" * 10_000,
    "layout alone": '{"__dict__": [["layout", 1], ["type", "Dataset"]]}',
    "type of a list": '{"__dict__": [["layout", 1], ["type", [1]]]}',
    "layout of a list": '{"__dict__": [["layout", [1]]]}',
}
"""Trees that are no data."""


def attacks(count: int, seed: int = 22) -> Iterator[Attack]:
    """Each tree by one command in turn; so many drawn ones by all."""
    every, names = list(trees()), list(COMMANDS)
    draw = random.Random(seed)
    for number, (kind, name, write) in enumerate(every):
        yield _attack(kind, name, write, names[(number + number // len(ODD)) % len(names)])
    for kind, name, write in draw.sample(every, min(count, len(every))):
        for command in names:
            yield _attack(f"{kind}, drawn", name, write, command)


def _attack(kind: str, name: str, write: Callable[[Path], None], command: str) -> Attack:
    def make(folder: Path) -> tuple[str, ...]:
        write(folder)
        return COMMANDS[command]

    return Attack(kind, f"{name} by {command}", make, may_pass=True, seconds=60.0)
