"""Settings of a run that are no algorithm's. Imports no torch, so that the command line answers at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from offline_marl.core.config import Config
from offline_marl.core.fields import (
    Count,
    CountOrZero,
    NotNegative,
    Positive,
    Processes,
    RayAddress,
    Seed,
    Share,
    SpreadName,
)
from offline_marl.core.permissions import is_import_path, names_code
from offline_marl.core.places import DatasetPlace, FilePlace, ModelPlace, PlacesWithin, RunPlace
from offline_marl.runs.online_model_flags import OnlineModelFlags
from offline_marl.runs.teacher_flags import TeacherFlags

WARM_UP = 1_000
"""Environment steps of random actions that a run begins with that has nothing else to begin with."""
ACTING_RUNS = ("prey",)
"""Settings of environments that may name the folder of a run, which then acts in it."""
FROZEN = "frozen"
"""The same of the environment `best-response`: all agents of the run but one act in it."""


MACHINE_FIELDS = frozenset({"device", "workers", "memory"})
"""Settings that say how a machine does the work: changing them makes no run another one."""
WATCHING_FIELDS = frozenset(
    {
        "threads",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "tensorboard",
        "wandb",
        "wandb_project",
        "loggers",
        "eval_every",
        "eval_episodes",
        "environment_timeout",
    }
)
"""Settings that say how a run is computed, kept and shown: they decide neither what it learns nor its score."""
INDECISIVE_FIELDS = MACHINE_FIELDS | WATCHING_FIELDS | {"reference", "final_episodes", "eval_seed"}
"""These, and how its end is scored: nothing of what a run learns depends on them."""
EDITABLE_FIELDS = MACHINE_FIELDS | WATCHING_FIELDS | {"ray_address", "patience"}
"""Settings that may be changed by hand in the config.json of a run that has begun."""


def _gigabytes(given: Any) -> Any:
    if given in ("none", "attention", "gru"):
        raise ValueError("It is a number, the gigabytes that data may take; what agents remember by is history_encoder")
    return given


class LearnFlags(Config):
    """Settings of every run, of agents and of world models alike."""

    dataset: DatasetPlace | None = None
    """Catalogue name, a body's with conf and view (reacher-scripted-mix-v0_2x1notip_0), or a file of our layout."""
    clip_actions: bool = False
    """Clip actions of the data that lie outside [-1, 1], and say how many, instead of refusing the data."""
    action_scale: Positive = 1.0
    """Divides the recorded actions, such as .4 for a body that acts in [-.4, .4]: they should lie in [-1, 1]."""
    memory: Annotated[Positive, BeforeValidator(_gigabytes)] = 4.0
    """Gigabytes that the data may take; a larger set stays on disk, and its rows are read as they are drawn."""
    seed: Seed = 0
    """Decides initial weights and the order of batches."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """auto, cpu, cuda or cuda:N; auto takes a GPU where there is one."""
    threads: Processes = 1
    """Torch threads; results are equal bit for bit only for the same number."""
    log_every: Count = 100
    """Updates between rows of metrics.csv; each row is the mean over them."""
    checkpoint_every: CountOrZero = 5_000
    """Updates between checkpoints; 0 saves only at the end."""
    keep_checkpoints: CountOrZero = 2
    """Newest checkpoints that stay on disk; 0 keeps all, for `collect --tiers`."""
    tensorboard: bool = False
    """Write TensorBoard events into the run folder (needs the extra 'log')."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Log to Weights & Biases (needs the extra 'log'); offline writes into the run folder."""
    wandb_project: str = "offline-marl"
    """Project of the W&B run."""
    loggers: tuple[str, ...] = ()
    """Loggers of plugins, or registered in this process, by name: --loggers mine,other."""


class RunFlags(TeacherFlags, OnlineModelFlags, LearnFlags):
    """Settings of every training run, whatever it trains."""

    environment: str | None = None
    """To learn in without data, or where a run on data is scored: reacher_2x1notip_0, package.module:function ..."""
    env_settings: Annotated[dict[str, Any], PlacesWithin((*ACTING_RUNS, FROZEN), "acting run")] = Field(
        default_factory=dict
    )
    """What the environment is made with, such as N=5 or, of a body, terminate_when_unhealthy=false; also as JSON."""
    max_steps: Count | None = None
    """Length of the environment's episodes; a toy's cannot be chosen."""
    reference: tuple[float, float] | None = None
    """Returns of random play and of an expert, which normalise scores: -30,-5; a run folder is a --reference-policy."""
    workers: Processes = 1
    """Processes that step the simulator, for scores and for learners in it; nothing depends on how many."""
    steps: Count = 100_000
    """Updates; the published runs take 1,000,000."""
    online: bool = False
    """Go on learning in the environment, beside the data: play it, and draw live rows beside recorded ones."""
    environment_steps: Count | None = None
    """In place of --steps, for runs that play: as many updates as so many environment steps pay for."""
    updates_per_step: Positive = 1.0
    """Updates of a run that replays for each environment step, such as .25; on-policy learners have their own pace."""
    warmup_steps: CountOrZero | None = None
    """Environment steps of random actions before the first update; 1,000 unless data or --init give it a beginning."""
    replay_capacity: Count = 1_000_000
    """Steps of whole episodes that the replay keeps; the oldest leave first."""
    replay_copies: Count = 1
    """Environments that a run that replays plays side by side; those that end early wait for the last."""
    prefill: bool = False
    """Put the data's episodes into the replay before the first step, instead of drawing a share of recorded rows."""
    environment_timeout: NotNegative = 600.0
    """Seconds that one step of the environment may take, in play and scores, before the run stops; 0 for any."""
    eval_every: CountOrZero = 5_000
    """Updates between evaluations in the environment; 0 evaluates only at the end."""
    eval_episodes: Count = 20
    """Episodes of each evaluation on the way."""
    final_episodes: Count = 100
    """Episodes of the evaluation at the end, which is the score."""
    eval_seed: Seed = 0
    """Decides the starts of the evaluation episodes; runs with the same one are scored on the same starts."""
    init: RunPlace | None = None
    """Run folder whose networks of the same name and shape are taken over before training, such as a bc run's."""
    reward_model: RunPlace | None = None
    """Folder of a fitted reward model (fit-reward), whose rewards are learnt from instead of the environment's."""
    reward_offset: float = 1.0
    """Mean of the learned reward, which is standardised over the training data."""
    reward_caution: NotNegative = 0.0
    """Taken from the learned reward per unit of its members' deviation."""
    reference_policy: RunPlace | None = None
    """Run folder of a policy, such as a bc run's: actions that it holds likely are paid, unlikely ones cost."""
    reference_weight: NotNegative = 1.0
    """Weight of its log-probability over that of uniform play."""
    reference_clip: tuple[float, float] = (-10.0, 1.0)
    """Least and most that an action is paid for it."""
    preferences: FilePlace | None = None
    """Folder of comparisons of the data's segments, for an algorithm that learns from them (o-mapl)."""
    world_model: ModelPlace | None = None
    """Folder of a fitted world model, or a kind (ensemble, oracle); what is missing is fitted first, and kept."""
    fit: dict[str, Any] = Field(default_factory=dict)
    """Fields of fit-model and of the kind for a world model that is fitted first, such as {"steps": 6000}."""
    real_fraction: Share | Literal["auto"] | None = None
    """Share of recorded rows in a batch: beside imagined ones (.05 unless said), or beside live ones of an --online run
    (.5 unless said); auto weighs all rows alike."""
    real_fraction_end: Share | None = None
    """Share at the last update, reached in equal steps; without it the share stays."""
    horizon: Count = 10
    """Steps of an imagined episode."""
    rollouts: Count = 256
    """Imagined episodes of one refill; on-policy learners make as many as their batch_size asks for."""
    refill_every: Count = 10
    """Updates between refills."""
    retain: Count = 1_000
    """Newest imagined rows kept to draw from."""
    start_share: Share = 0.0
    """Share of imagined episodes that begin where a recorded one begins; the others begin anywhere in the data."""
    spread: SpreadName = "covariance_norm"
    """What measures how much the world model's members disagree."""
    spread_weight: NotNegative = 0.1
    """Taken from the reward per unit of spread."""
    reward_spread_weight: NotNegative = 0.05
    """Taken from the reward per unit of the variance of predicted rewards."""
    cutoff: NotNegative = 2.0
    """Spread that ends an imagined episode; 0 for never."""
    cutoff_quantile: Share | None = None
    """The cutoff as a quantile of the spread on recorded transitions, which means the same in every task."""
    clip_imagined: bool = True
    """Keep imagined observations and rewards inside the range of the data."""
    engine: Literal["local", "ray"] | None = None
    """Let other processes compute the agents' gradients, with redundancy: processes of this machine, or Ray actors."""
    learners: Processes | None = None
    """Processes of an --engine; as many as agents and half as many again unless said."""
    code: str = "systematic"
    """Which of them computes which agents: systematic, replication, ldpc ... as `offline-marl codes` lists them."""
    patience: Positive = 60.0
    """Seconds without any answer of the learners after which their owner computes what is missing."""
    stragglers: CountOrZero = 0
    """Learners that are late on purpose, drawn anew for each update, to see what a code bears."""
    straggler_delay: NotNegative = 1.0
    """Seconds by which they are late."""
    ray_address: RayAddress | None = None
    """Of a Ray cluster that runs, such as auto or 10.0.0.1:6379; without it --engine ray starts one here."""
    compile: bool = False
    """Compile the update's losses and gradients (torch.compile); equal but for rounding. Begins half a minute later."""
    cuda_graphs: bool = False
    """Replay them as CUDA graphs, on a GPU; needs --compile. Written without a GPU to try it on."""
    answers_of: RunPlace | None = None
    """Run of the same settings whose log of used answers is replayed, bit for bit, instead of asking any learner."""


class RunConfig(RunFlags):
    """All that decides a run: its flags, the algorithm's name and the algorithm's own settings."""

    algorithm: str
    """Registry name."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Fields of the algorithm's config, all of them once the run has begun."""

    @property
    def task(self) -> str:
        """The data set or the environment, as it was named."""
        return str(self.environment if self.dataset is None else self.dataset)

    @property
    def first_steps(self) -> int:
        """Environment steps of random actions before the first update of a run that replays."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return WARM_UP if self.dataset is None and self.init is None else 0

    @model_validator(mode="after")
    def _one_of_both(self) -> RunConfig:
        if self.dataset is None and self.environment is None:
            raise ValueError(
                f"{self.algorithm} needs either --dataset ID or, to learn without data, --environment NAME"
            )
        if self.environment is None and (self.env_settings or self.max_steps):
            raise ValueError("--env-settings and --max-steps are for an --environment")
        return self


class FitFlags(LearnFlags):
    """Settings of every fit of a world model."""

    dataset: DatasetPlace
    """Catalogue name, a body's with conf and view (reacher-scripted-mix-v0_2x1notip_0), or a file of our layout."""
    steps: Count = 10_000
    """Updates at most; the fit ends early when held-out episodes are foreseen no better."""
    eval_every: Count = 500
    """Updates between looks at held-out episodes."""
    checkpoint_every: CountOrZero = 1_000
    """Updates between checkpoints; 0 saves only at the end."""


class FitConfig(FitFlags):
    """All that decides the fit of a world model."""

    model: str
    """Registry name of its kind."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Fields of the kind's config, all of them once the fit has begun."""


class RewardFitFlags(LearnFlags):
    """Settings of every fit of a reward model."""

    dataset: DatasetPlace
    """The data that the pairs are of, by which observations are standardised and the report measures."""
    preferences: FilePlace
    """Folder of comparisons, which `prefs pairs` makes."""
    labels: CountOrZero = 0
    """Learn from so many labels, drawn by the seed, as many of them held out as of all; 0 for all that there are."""
    steps: Count = 3_000
    """Updates at most; the fit ends early when held-out pairs are told no better."""
    eval_every: Count = 50
    """Updates between looks at held-out pairs."""
    checkpoint_every: CountOrZero = 500
    """Updates between checkpoints; 0 saves only at the end."""


class RewardFitConfig(RewardFitFlags):
    """All that decides the fit of a reward model."""

    reward: str
    """Registry name of its kind."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Fields of the kind's config, all of them once the fit has begun."""


class EnvironmentChoice(Config):
    """Environment that a command scores, films or compares runs in, where it is not the one that belongs to them."""

    environment: str | None = None
    """Where to act instead of the run's own environment; or the import path that its files ask for, if you trust it."""
    env_settings: Annotated[dict[str, Any], PlacesWithin((*ACTING_RUNS, FROZEN), "acting run")] = Field(
        default_factory=dict
    )
    """What the environment is made with, such as N=5; also as JSON."""
    max_steps: Count | None = None
    """Length of its episodes, where it can be chosen."""

    @property
    def import_paths(self) -> frozenset[str]:
        """What it names to be imported."""
        return import_paths(self.environment, self.env_settings)


def import_paths(environment: str | None, settings: Mapping[str, Any]) -> frozenset[str]:
    """Import paths among an environment's name and the actors in its settings."""
    actors = [settings.get(name) for name in ACTING_RUNS]
    paths = {name for name in actors if isinstance(name, str) and is_import_path(name) and not Path(name).is_dir()}
    return frozenset(paths | ({environment} if environment is not None and names_code(environment) else set()))


def names_actors(settings: Mapping[str, Any]) -> bool:
    """Whether settings of an environment say by a word who acts in it: a run folder, or code to import.

    Of a file they are only words: neither is loaded before the user has named it.
    """
    return any(isinstance(settings.get(name), str) for name in ACTING_RUNS)


NO_CHOICE = EnvironmentChoice()
