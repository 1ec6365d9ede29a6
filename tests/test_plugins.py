"""A third-party package, really installed, adds to every registry through entry points; a broken one harms nobody."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from warm import Warm
from worlds import saved, world

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--steps=20", "--log-every=10", "--hidden=16", "--batch-size=8", "--device=cpu"]
MODULE = '''
"""Clones, and tells how often it was updated."""

from offline_marl import AlgorithmConfig, Batch, Metrics, Needs, Spec, algorithms
from offline_marl.algorithms.bc import BC


class MyAlgoConfig(AlgorithmConfig):
    """Common fields and one of its own."""

    my_field: int = 1
    """Multiplies the loss."""


@algorithms.register("my-algo")
class MyAlgo(BC):
    """Behaviour cloning by another name."""

    Config = MyAlgoConfig
    needs = Needs(actions=frozenset({"continuous"}))

    def __init__(self, config: MyAlgoConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.my_field = config.my_field

    def update(self, batch: Batch) -> Metrics:
        return {**super().update(batch), "my/field": batch.rewards.new_tensor(float(self.my_field))}
'''

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "1.0"

[project.entry-points."offline_marl.algorithms"]
{key} = "{module}:{owner}"

[tool.setuptools]
py-modules = ["{module}"]
"""


def write_package(folder: Path, name: str, key: str, owner: str, source: str) -> str:
    module = name.replace("-", "_")
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PROJECT.format(name=name, key=key, module=module, owner=owner))
    (folder / f"{module}.py").write_text(source)
    return str(folder)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory) -> Path:
    """A folder with installed packages: the example and another that work, one that does not import, two rivals."""
    place = tmp_path_factory.mktemp("plugins")
    example = place / "example"  # a copy: building leaves things behind
    shutil.copytree(ROOT / "examples" / "plugin", example, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    packages = [
        str(example),
        write_package(place / "one", "one-package", "rival", "MyAlgo", MODULE.replace("my-algo", "rival")),
        write_package(place / "two", "two-package", "rival", "MyAlgo", MODULE.replace("my-algo", "rival")),
        write_package(place / "good", "my-package", "my-algo", "MyAlgo", MODULE),
        write_package(place / "bad", "bad-package", "bad-algo", "BadAlgo", "import no_such_package_anywhere\n"),
    ]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(place / "site"), *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place / "site"


def python(plugins: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run Python where the plugins are installed; its standard output and error."""
    done = subprocess.run([sys.executable, *arguments], env=beside(plugins), capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def beside(plugins: Path) -> dict[str, str]:
    paths = [str(plugins), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.fixture
def warmly(plugins: Path, warm: Warm):
    """As `python`, in a process that has torch already."""

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        done = warm.run(*arguments, env=beside(plugins))
        assert done.returncode == code, done.stderr
        return done.stdout, done.stderr

    return run


@pytest.mark.long
def test_plugins_are_listed_beside_the_built_in_ones_without_being_imported(warmly):
    code = (
        "import json, sys, offline_marl\n"
        "algorithms = offline_marl.algorithms\n"
        "print(json.dumps([algorithms.names(), [[l.name, l.origin] for l in algorithms.listings()],"
        " 'my_package' in sys.modules]))"
    )
    names, origins, imported = json.loads(warmly("-c", code)[0])
    assert {"bc", "iql", "ma-iql", "my-algo", "bad-algo"} <= set(names) and not imported
    assert dict(origins)["my-algo"] == "my-package" and dict(origins)["bad-algo"] == "bad-package"


def test_a_plugin_that_does_not_import_is_named_and_harms_nobody_else(warmly):
    code = (
        "from offline_marl.algorithms.base import algorithms\n"
        "print(algorithms.get('my-algo').__name__, algorithms.get('bc').__name__)\n"
        "try: algorithms.get('bad-algo')\n"
        "except LookupError as error: print(error)"
    )
    good, said = warmly("-c", code)[0].splitlines()
    assert good == "MyAlgo BC"
    assert "'bad-algo'" in said and "bad-package" in said and "no_such_package_anywhere" in said


@pytest.mark.slow
def test_the_command_line_trains_a_plugin_with_its_own_flags(plugins, tmp_path):
    data = saved(tmp_path, world("continuous"))
    train = ["-m", "offline_marl", "train", "my-algo", "--dataset", data, "--out", str(tmp_path / "run"), *TINY]
    python(plugins, *train, "--my-field=3")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["my_field"] == 3
    assert "my/field" in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert ",3.0" in (tmp_path / "run" / "metrics.csv").read_text()


def test_the_command_line_shows_a_plugins_flags_and_says_which_plugin_is_broken(warmly, tmp_path):
    shown = warmly("-m", "offline_marl", "train", "my-algo", "--help")[0]
    assert "--my-field" in shown and "Multiplies the loss" in shown
    listed = warmly("-m", "offline_marl", "list", "algorithms")[0]
    assert "my-algo" in listed and "bad-algo" in listed
    data = saved(tmp_path, world("continuous"))
    refused = warmly("-m", "offline_marl", "train", "bad-algo", "--dataset", data, code=2)[1].strip()
    assert "bad-package" in refused and "Traceback" not in refused and len(refused.splitlines()) == 1


def test_list_plugins_says_which_work_and_why_others_do_not(warmly):
    rows = {line.split()[0]: line for line in warmly("-m", "offline_marl", "list", "plugins")[0].splitlines()}
    assert rows["top-cloning"].split() == ["top-cloning", "marl-example", "works"]
    assert all(rows[name].endswith("works") for name in ("my-algo", "seesaw", "residual"))
    assert "bad-package" in rows["bad-algo"] and "no_such_package_anywhere" in rows["bad-algo"]
    assert "one-package" in rows["rival"] and "two-package" in rows["rival"] and "uninstall one" in rows["rival"]


def test_two_packages_that_claim_one_name_are_refused_and_both_named(warmly, tmp_path):
    listed = warmly("-m", "offline_marl", "list", "algorithms")[0]
    assert re.search(r"rival +one-package, two-package +refused: claimed by one-package and two-package", listed)
    refused = warmly("-m", "offline_marl", "train", "rival", "--dataset", "x", code=2)[1].strip()
    assert "one-package" in refused and "two-package" in refused and len(refused.splitlines()) == 1


def settings_of(run: Path) -> dict:
    config = json.loads((run / "config.json").read_text())
    return {**config, **config["settings"]}


def test_the_example_plugin_trains_with_its_own_flag_and_its_own_preset(warmly, tmp_path):
    data = saved(tmp_path, world("continuous"))
    train = ["-m", "offline_marl", "train", "top-cloning", "--dataset", data, *TINY]
    warmly(*train, "--share=0.4", "--out", str(tmp_path / "flag"))
    assert settings_of(tmp_path / "flag")["share"] == 0.4
    assert "kept/share" in (tmp_path / "flag" / "metrics.csv").read_text().splitlines()[0]
    preset = "reacher-scripted-mix-v0_2x1notip_0"
    warmly(*train, "--preset", preset, "--out", str(tmp_path / "preset"))
    settings = settings_of(tmp_path / "preset")
    assert (settings["share"], settings["eval_every"]) == (0.3, 2500)
    assert (settings["steps"], settings["dataset"]) == (20, data), "flags win over the preset"
    assert preset in warmly("-m", "offline_marl", "train", "top-cloning", "--help")[0]


FEW = [
    "--steps=2",
    "--batch-size=50",
    "--minibatch-size=25",
    "--epochs=1",
    "--hidden=8",
    "--final-episodes=2",
    "--eval-every=0",
]


def test_the_example_plugins_environment_is_learnt_in_collected_from_and_scored_in(warmly, tmp_path):
    said = warmly("-m", "offline_marl", "list", "environments")[0]
    assert re.search(r"seesaw +marl-example", said)
    online = [
        "train",
        "ma-ppo",
        "--environment=seesaw",
        "--device=cpu",
        *FEW,
        "--eval-every=0",
        "--out",
        str(tmp_path / "online"),
    ]
    assert "uniform play" in warmly("-m", "offline_marl", *online)[0]
    data = str(tmp_path / "seesaw.safetensors")
    who = f"--who=steady=1,random=1,{tmp_path / 'online'}=1"
    warmly("-m", "offline_marl", "collect", "seesaw", who, "--noise=0.1", "--episodes=6", "--out", data)
    train = ["train", "bc", "--dataset", data, *TINY, "--final-episodes=3"]
    warmly("-m", "offline_marl", *train, "--out", str(tmp_path / "clone"))
    done = json.loads((tmp_path / "clone" / "DONE").read_text())
    assert done["score"]["episodes"] == 3 and -10 < done["score"]["return"] < 0
    assert done["versions"]["marl-example"] == done["data"]["versions"]["marl-example"] == "0.1.0"


def test_the_example_plugins_world_model_is_fitted_and_learnt_in(warmly, tmp_path):
    data, model = saved(tmp_path, world("continuous")), str(tmp_path / "model")
    fit = ["fit-model", "residual", "--dataset", data, "--steps=20", "--eval-every=10", "--hidden=8", "--device=cpu"]
    warmly("-m", "offline_marl", *fit, "--holdout=0.3", "--out", model)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model"] == "residual"
    few = [*FEW, "--device=cpu", "--world-model", model, "--horizon=3", "--out", str(tmp_path / "run")]
    warmly("-m", "offline_marl", "train", "moma-ppo", "--dataset", data, *few)
    assert (tmp_path / "run" / "DONE").exists()


def test_a_plugins_presets_are_listed_without_importing_it(plugins):
    code = (
        "import sys\nfrom offline_marl.launch.cli import main\n"
        "try: main(['list', 'presets'])\nexcept SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'marl_example', 'bad_package'} & set(sys.modules)"
    )
    assert re.search(r"top-cloning +reacher-scripted-mix-v0_2x1notip_0 .*share = 0.3", python(plugins, "-c", code)[0])


@pytest.mark.slow
def test_the_example_plugins_own_tests_pass(plugins, tmp_path):
    shutil.copytree(ROOT / "examples" / "plugin" / "tests", tmp_path / "tests")
    settings = ["-c", str(ROOT / "examples" / "plugin" / "pyproject.toml"), "--rootdir", str(tmp_path)]
    said = python(plugins, "-m", "pytest", "-q", "-p", "no:cacheprovider", *settings, str(tmp_path / "tests"))[0]
    assert re.search(r"\d passed", said) and "failed" not in said


@pytest.mark.slow
def test_the_contract_finds_the_plugin(plugins):
    """Being installed is all it takes to be held to the contract; the broken one fails one test, by its name."""
    contract = str(Path(__file__).parent / "algorithms" / "test_contract.py")
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", contract, "-k"]
    said = python(plugins, *arguments, "bad-algo or (my-algo and window0 and not shared)", code=1)[0]
    assert re.search(r"^1 failed, 1[0-9] passed", said, re.MULTILINE), said
    assert "no_such_package_anywhere" in said


@pytest.mark.slow
@pytest.mark.parametrize(("room", "name"), [("algorithms", "top-cloning"), ("worldmodels", "residual")])
def test_the_example_plugin_keeps_the_contract(plugins, room, name):
    contract = str(Path(__file__).parent / room / "test_contract.py")
    said = python(plugins, "-m", "pytest", "-q", "-p", "no:cacheprovider", contract, "-k", name)[0]
    assert "failed" not in said and re.search(r"^\d\d+ passed", said, re.MULTILINE), said
