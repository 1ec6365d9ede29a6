# The one door for users and developers. Needs GNU make, git and Python >= 3.10 with venv; everything else goes into $(VENV).

PYTHON ?= python3
VENV ?= .venv
SMAX_PYTHON ?= $(PYTHON)

# Which torch goes into $(VENV):
#   cpu (default)      the CPU build, about 200 MB
#   torch              the wheel on PyPI, with CUDA on Linux: GPU owners say `make demo TORCH=torch` once;
#                      later calls keep what is there
#   anything else      handed to pip as it is, e.g. TORCH='torch --index-url https://download.pytorch.org/whl/cu130'
TORCH ?= $(or $(TORCH_HAVE),cpu)

TORCH_HAVE := $(shell cat '$(VENV)/.torch' 2>/dev/null)
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
# The local label +cpu keeps CUDA's gigabytes out; macOS wheels have no CUDA and no label.
ifneq ($(TORCH),cpu)
TORCH_WHEEL = $(TORCH)
else ifeq ($(shell uname -s),Darwin)
TORCH_WHEEL = torch==$(TORCH_VERSION)
else
TORCH_WHEEL = torch==$(TORCH_VERSION)+cpu --extra-index-url https://download.pytorch.org/whl/cpu
endif

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
INSTALL := install --progress-bar off -c constraints.txt
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help demo setup fmt check test long slow golden wheel slurm browser ray dmcontrol smax faults fuzz dependencies bench page labels docs speed apart peers clean

help: ## show this list
	@echo "make TARGET [VENV=$(VENV)] [TORCH=$(TORCH)] [PYTHON=$(PYTHON)]"
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name text; do printf '  %-12s %s\n' "$$name" "$$text"; done

demo: $(RUN) ## set up what is missing, train on built-in data, print scores and draw a picture (runs/demo)
	$(PY) examples/demo.py --out runs/demo

setup: $(DEV) ## set up the development environment and nothing more
	@echo "$(VENV) is ready: try $(VENV)/bin/offline-marl --help"

fmt: $(DEV) ## format, and repair what ruff can repair
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

check: $(DEV) ## formatting, lint, types (mypy --strict) and import floors
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo

test: $(DEV) ## set up what is missing, run the fast tests (ARGS='-k name' picks some)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal $(ARGS)

long: $(DEV) ## the tests of more than a second: kills, processes, whole pipelines
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal \
	  -m "long and not slow and not network and not gpu and not slurm and not browser and not ray and not dmcontrol and not smax and not faults" $(ARGS)

slow: $(DEV) ## the tests that learn, kill processes or install packages
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "slow and not network and not gpu and not slurm and not browser and not ray and not dmcontrol and not smax" $(ARGS)

golden: $(DEV) ## short runs of every learner, compared bit for bit with their records (ARGS='-k ma-iql' picks some)
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slow -n 2 -rs tests/golden $(ARGS)

wheel: $(DEV) ## build a wheel, install it into an empty folder, train and render a report there
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slow tests/test_wheel.py $(ARGS)

slurm: $(DEV) ## the tests on a real Slurm, which tests/slurm/up.sh starts here; as root, on Debian
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slurm -rs $(ARGS)

browser: $(DEV) ## open the report and the labelling page in a real Chromium, with axe-core; tests/browser/up.sh fetches both
	OMP_NUM_THREADS=1 $(PY) -m pytest -m browser -rs $(ARGS)

ray: $(DEV) ## the tests on a real Ray, in a network namespace of its own; installs the extra 'ray'
	@test -x '$(VENV)/bin/ray' || $(PIP) $(INSTALL) -q -e '.[ray]'
	OMP_NUM_THREADS=1 $(PY) -m pytest -m ray -rs tests/distributed tests/training tests/launch/jobs $(ARGS)

dmcontrol: ## the tests of DeepMind Control, which needs an older MuJoCo, in $(VENV)-dmcontrol
	@$(MAKE) --no-print-directory VENV='$(VENV)-dmcontrol' '$(VENV)-dmcontrol/.installed-dmcontrol'
	OMP_NUM_THREADS=1 '$(VENV)-dmcontrol/bin/python' -m pytest -m dmcontrol -rs tests/environments/test_dmcontrol.py $(ARGS)

smax: $(DEV) ## the tests of SMAX, whose jaxmarl goes into $(VENV)-smax (Python 3.11 or newer: SMAX_PYTHON=python3.12)
	@$(MAKE) --no-print-directory '$(VENV)-smax/.installed-smax'
	OFFLINE_MARL_SMAX_PYTHON='$(abspath $(VENV))-smax/bin/python' OMP_NUM_THREADS=1 $(PY) -m pytest -m smax -rs \
	  tests/environments/test_smax.py $(ARGS)

faults: $(DEV) ## attack: kills, full disks, permissions, edited and hostile files; goes on after a stop (SHORT=1: minutes)
	@mkdir -p build
	OMP_NUM_THREADS=1 PYTHONPATH=tests/support FAULTS_SHORT=$(SHORT) $(PY) -m pytest -p campaign -m faults -n 2 -rs \
	  $(if $(SHORT),,--campaign build/faults.jsonl) tests $(ARGS)

fuzz: ## coverage-guided fuzzing of our parsers, a minute each, in $(VENV)-fuzz (ARGS='pickles --seconds 600')
	@$(MAKE) --no-print-directory VENV='$(VENV)-fuzz' '$(VENV)-fuzz/.installed-fuzz'
	'$(VENV)-fuzz/bin/python' tests/fuzz/fuzz.py $(ARGS)

dependencies: $(DEV) ## tests with the lowest and newest versions of what is needed; wheels and types for other Pythons; licences
	$(PY) tests/dependencies/run.py $(ARGS)

bench: $(DEV) ## train and score a preset: make bench PRESET=ma_iql/published
	$(PY) benchmarks/run.py $(PRESET) $(ARGS)

page: $(DEV) ## write docs/report.html, and its picture, anew from the committed rows of the headline
	$(PY) benchmarks/headline.py --report build/headline.csv
	$(PY) -m offline_marl report build/headline.csv --title 'The headline: who agrees where data holds two conventions' --out build/page
	cp build/page/report.html docs/report.html
	$(PY) tests/browser/picture.py docs/report.html docs/pictures/report.png

labels: $(DEV) ## let a scripted user label 100 pairs in a real Chromium (pairs/mine), and take docs/pictures/label.png
	$(PY) tests/browser/label_user.py --picture docs/pictures/label.png $(ARGS)

docs: $(DEV) ## write docs/algorithms, a page for each algorithm, anew from the code
	$(PY) docs/build.py

speed: $(DEV) ## time our updates against the bare arithmetic (docs/speed.md shows what was measured)
	$(PY) benchmarks/speed.py $(ARGS)

peers: $(DEV) ## time our updates beside d3rlpy's, which goes into $(VENV)-peers, and plain one-agent loops (docs/speed.md)
	@$(MAKE) --no-print-directory '$(VENV)-peers/.installed-peers' || \
	  echo "d3rlpy cannot be installed here: its rows are left out." >&2
	$(PY) benchmarks/peers.py $$(test -f '$(VENV)-peers/.installed-peers' && echo "--d3rlpy $(VENV)-peers/bin/python") $(ARGS)

apart: $(DEV) ## time in processes of their own: ARGS=loops, or ARGS='commits --before CHECKOUT --limit 0.97'
	$(PY) benchmarks/apart.py $(ARGS)

clean: ## remove caches and build leftovers; keeps .venv and runs
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find offline_marl tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# --- the environment: each file below says what $(VENV) already holds ---------------------------------------------

# Asking for another torch than the one inside makes its record out of date.
ifneq ($(strip $(TORCH)),$(strip $(TORCH_HAVE)))
.PHONY: $(VENV)/.torch
DROP_TORCH = $(if $(TORCH_HAVE),$(PIP) uninstall -q -y torch)
endif

# torch comes first and alone (--no-deps), so that nothing else is ever looked for on its index.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "$(PYTHON) is missing or older than Python 3.10: name a newer one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments: install python3-venv (apt-get install python3-venv)." >&2; exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || { echo "Creating $(VENV)"; $(PYTHON) -m venv '$(VENV)'; }
	@rm -f '$@'
	@$(DROP_TORCH)
	@echo "Installing torch ($(TORCH)) into $(VENV): one large download, about 200 MB for cpu"
	@$(PIP) $(INSTALL) --no-deps --retries 2 --timeout 15 $(TORCH_WHEEL) || \
	  { echo "pip could not install torch ($(TORCH)); its reason is above. TORCH=torch takes the wheel on PyPI." >&2; exit 1; }
	@printf '%s\n' '$(strip $(TORCH))' > '$@'

$(RUN): $(VENV)/.torch pyproject.toml
	@echo "Installing offline_marl with its simulator and plots into $(VENV): about half a minute"
	@$(PIP) $(INSTALL) -q -e '.[environments,report]'
	@touch '$@'

$(DEV): $(VENV)/.torch pyproject.toml
	@echo "Installing offline_marl with its development tools into $(VENV): about half a minute"
	@$(PIP) $(INSTALL) -q -e '.[dev]'
	@touch '$(RUN)' '$@'

$(VENV)/.installed-dmcontrol: $(VENV)/.torch pyproject.toml
	@echo "Installing offline_marl with DeepMind Control into $(VENV): about a minute"
	@$(PIP) $(INSTALL) -q -e '.[dmcontrol]' 'pytest>=8'
	@touch '$@'

$(VENV)-peers/.installed-peers: $(VENV)/.torch
	@echo "Installing d3rlpy with its own copy of torch into $(VENV)-peers: 1 GB, two minutes"
	@$(PYTHON) -m venv '$(VENV)-peers'
	@'$(VENV)-peers/bin/python' -m pip --disable-pip-version-check install --progress-bar off --no-deps -q $(TORCH_WHEEL)
	@'$(VENV)-peers/bin/python' -m pip --disable-pip-version-check install --progress-bar off -q 'd3rlpy>=2.8,<3'
	@touch '$@'

$(VENV)-smax/.installed-smax:
	@$(SMAX_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "$(SMAX_PYTHON) is missing or older than Python 3.11, which jaxmarl needs: name one with SMAX_PYTHON=..." >&2; exit 1; }
	@echo "Installing jaxmarl with the CPU build of jax into $(VENV)-smax: 1 GB, two minutes"
	@$(SMAX_PYTHON) -m venv '$(VENV)-smax'
	@'$(VENV)-smax/bin/python' -m pip --disable-pip-version-check install --progress-bar off -q 'jaxmarl==0.2.0'
	@touch '$@'

$(VENV)/.installed-fuzz: $(VENV)/.torch pyproject.toml
	@echo "Installing offline_marl with its readers and atheris into $(VENV): about a minute"
	@$(PIP) $(INSTALL) -q -e '.[data,vault,arrow]' 'pytest>=8' 'atheris>=3'
	@touch '$@'
