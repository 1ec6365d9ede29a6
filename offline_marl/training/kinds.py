"""How runs of each kind are prepared, begun and resumed: one Procedure for each entry of the table of kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import ConfigError
from offline_marl.core.places import place_fields, with_whole_places
from offline_marl.core.registry import Registry, RegistryError
from offline_marl.preferences import registry as reward_models
from offline_marl.runs.combinations import refuse_beginning, refuse_mixtures
from offline_marl.runs.config import FitConfig, LearnFlags, RewardFitConfig, RunConfig
from offline_marl.runs.devices import pick_device
from offline_marl.runs.folder import Folder, RewardFolder, naming_plugins
from offline_marl.runs.kinds import FIT_REWARD, RunKind, build_settings, kinds
from offline_marl.runs.places import places_of, places_of_fit, resolve_fit, resolve_run, whole
from offline_marl.runs.software import describe_software
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training import run
from offline_marl.training.models import fit as fitting
from offline_marl.training.models.fit import Fit
from offline_marl.training.preferences.fit import RewardFit, RewardFitSession, describe
from offline_marl.training.preferences.folders import key_of, plain_spec
from offline_marl.training.session import Session
from offline_marl.training.training_run import Result
from offline_marl.worldmodels.base import worldmodels

Settings = TypeVar("Settings", bound=LearnFlags)
Outcome = TypeVar("Outcome")


class Procedure(Generic[Settings, Outcome]):
    """Procedure of a kind of run, from loose fields to its end.

    A kind of one's own gives `names` and `session`, and may replace the rest.

    Args:
        kind: Its entry in the table.
    """

    names: ClassVar[Registry[Any]]
    """What can be learnt; each thing has a `Config`."""

    def __init__(self, kind: RunKind[Settings]) -> None:
        self.kind = kind

    def session(self, folder: Folder[Settings], config: Settings) -> Session[Settings, Outcome]:
        """The work on a folder that this process holds, for `begin` and `resume`."""
        raise NotImplementedError

    def resolve(self, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Loose fields with whole paths, so that they mean the same from any folder."""
        config_class = self.names.get(name).Config
        return with_whole_places(with_whole_places(fields, config_class, whole), self.kind.config, whole)

    def places(self, name: str) -> frozenset[str]:
        """Names of the settings that are paths."""
        try:
            return place_fields(self.kind.config, self.names.get(name).Config)
        except RegistryError:
            return place_fields(self.kind.config)

    def prepare(self, name: str, dataset: str | None, fields: Mapping[str, Any]) -> Settings:
        """The full settings of a run.

        Raises:
            RegistryError: There is nothing of this name.
            ConfigError: A field is unknown or has a bad value.
        """
        fields = self.resolve(name, fields if dataset is None else {**fields, "dataset": dataset})
        dataset = fields.pop("dataset", None)
        config = build_settings(self.kind, name, self.names.get(name).Config, dataset, fields)
        return config.model_copy(update={"device": str(pick_device(config.device))})

    def default_folder(self, config: Settings) -> Path:
        """Where a run goes that names no folder."""
        words = (self.kind.command, getattr(config, self.kind.mark), Path(str(config.dataset)).name)
        return Path("runs") / f"{'_'.join(words)}_seed{config.seed}"

    def begin(self, name: str, dataset: str | None, out: Path, fields: Mapping[str, Any]) -> Outcome:
        """Begin a run in a folder that holds nothing yet, and go to its end."""
        config = self.prepare(name, dataset, fields)
        folder = Folder(out, self.kind)
        with folder.locked():
            folder.refuse_strangers(config)
            folder.sweep()
            # Made first: settings that it refuses should not leave the folder taken.
            session = self.session(folder, config)
            folder.begin(config, describe_software())
            return session.run()

    def resume(self, path: Path) -> Outcome:
        """Go on with the run in a folder."""
        folder = Folder(path, self.kind)
        config = folder.unedited_config()
        with folder.locked():
            folder.sweep()
            return self.session(folder, config).run()

    def lines(self, outcome: Outcome) -> Sequence[str]:
        """What the command prints of a finished run, above its folder."""
        return ()


class Training(Procedure[RunConfig, Result]):
    """Procedure of training runs."""

    names = algorithms

    def resolve(self, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        return resolve_run(name, fields)

    def places(self, name: str) -> frozenset[str]:
        return places_of(name)

    def prepare(self, name: str, dataset: str | None, fields: Mapping[str, Any]) -> RunConfig:
        config = run.prepare(name, dataset, fields)
        refuse_mixtures(config, algorithms.get(name).needs)
        refuse_beginning(config, algorithms.get(name).needs)
        return config

    def default_folder(self, config: RunConfig) -> Path:
        return run.default_folder(config)

    def begin(self, name: str, dataset: str | None, out: Path, fields: Mapping[str, Any]) -> Result:
        return run.train(name, dataset, out=out, **fields)

    def resume(self, path: Path) -> Result:
        return run.resume(path)


class Fitting(Procedure[FitConfig, Fit]):
    """Procedure of fits of world models."""

    names = worldmodels

    def resolve(self, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        if fields.get("dataset") is None:
            raise ConfigError(f"A fit of {name} needs a dataset.")
        return resolve_fit(name, fields)

    def places(self, name: str) -> frozenset[str]:
        return places_of_fit(name)

    def prepare(self, name: str, dataset: str | None, fields: Mapping[str, Any]) -> FitConfig:
        return fitting.prepare_fit(name, str(dataset), fields)

    def default_folder(self, config: FitConfig) -> Path:
        return fitting.default_model_folder(config)

    def begin(self, name: str, dataset: str | None, out: Path, fields: Mapping[str, Any]) -> Fit:
        return fitting.fit_model(name, str(dataset), out=out, **fields)

    def resume(self, path: Path) -> Fit:
        return fitting.resume_fit(path)


class FittingRewards(Procedure[RewardFitConfig, RewardFit]):
    """Procedure of fits of reward models."""

    names = reward_models

    def prepare(self, name: str, dataset: str | None, fields: Mapping[str, Any]) -> RewardFitConfig:
        if dataset is None and fields.get("dataset") is None:
            raise ConfigError(f"A fit of {name} needs a dataset.")
        if not fields.get("preferences"):
            raise ConfigError(f"fit-reward {name} needs --preferences FOLDER, which `offline-marl prefs pairs` makes.")
        return super().prepare(name, dataset, fields)

    def default_folder(self, config: RewardFitConfig) -> Path:
        return Path("rewards") / f"{config.reward}_{Path(config.dataset).name}_seed{config.seed}"

    def begin(self, name: str, dataset: str | None, out: Path, fields: Mapping[str, Any]) -> RewardFit:
        config = self.prepare(name, dataset, fields)
        folder = RewardFolder(out)
        task = open_task(config.dataset, config.clip_actions, config.memory, config.action_scale)
        with folder.locked():
            folder.refuse_strangers(config)
            folder.sweep()
            session = RewardFitSession(folder, config, task)
            about = {"data_key": key_of(task.data), "spec": plain_spec(task.spec), "labels": session.labels}
            about["judgements"] = session.judgements
            folder.begin(config, {**describe_software(), **about})
            return session.run()

    def session(self, folder: Folder[RewardFitConfig], config: RewardFitConfig) -> RewardFitSession:
        with naming_plugins(folder):
            task = open_task(config.dataset, config.clip_actions, config.memory, config.action_scale)
        return RewardFitSession(folder, config, task)

    def lines(self, outcome: RewardFit) -> Sequence[str]:
        return describe(outcome)


def fit_reward(dataset: str, preferences: str | Path, *, name: str = "bradley-terry", out: str | Path | None = None,
               **fields: Any) -> RewardFit:  # fmt: skip
    """Fit a reward model to labelled comparisons.

    Args:
        dataset: Task id or file, as for `train`.
        preferences: Folder of comparisons.
        name: Registry name of its kind.
        out: The model's folder; by default `rewards/<kind>_<dataset>_seed<seed>`.
        fields: Any field of the fit (`steps`, `seed` ...) or of the kind's config.

    Raises:
        ConfigError: A setting is unknown or has a bad value.
        DataError: The data or the labels cannot be used, or do not belong together.
        RunFolderError: The folder holds something else or is in use.
    """
    procedure = FittingRewards(FIT_REWARD)
    fields = {**fields, "preferences": str(preferences)}
    where = Path(out) if out is not None else procedure.default_folder(procedure.prepare(name, dataset, fields))
    return procedure.begin(name, dataset, where, fields)


def procedure_of(kind: RunKind[Any] | str) -> Procedure[Any, Any]:
    """The procedure of a kind, or of its command.

    Raises:
        RegistryError: There is no such kind, or its package does not import.
    """
    kind = kinds.get(kind) if isinstance(kind, str) else kind
    module, _, name = kind.procedure.partition(":")
    procedure: Procedure[Any, Any] = getattr(import_module(module), name)(kind)
    return procedure
