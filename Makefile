# Everything a newcomer or a contributor needs; `make` alone says what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# With a GPU, or to choose another build of PyTorch: make setup TORCH="torch==2.13.0+cu130"
TORCH ?= torch==2.13.0
ARGS ?=

.PHONY: help setup serve check test bench bench-gpu distill-toy clean

help:
	@echo "make serve   set up if needed, start the server with the embedded model, print the address"
	@echo "make test    install what the tests need and run them all"
	@echo "make check   formatting, lint, types (Python and JavaScript)"
	@echo "make bench   how fast the embedded model runs on this machine"
	@echo "make bench-gpu  kernels, decoders and the published models with random weights, on this GPU"
	@echo "make distill-toy  every stage of a distillation, tiny, and a block of what it made"
	@echo "make setup   only make the virtual environment and install"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# PyTorch first and on its own, so that its build is chosen here and not by a dependency.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

setup: $(VENV)/.installed

serve: setup
	$(BIN)/streamer serve $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@if command -v npx >/dev/null; then npx --yes --package typescript@7.0.2 tsc --project web; \
	else echo "no npx: the page's types were not checked"; fi

bench: setup
	$(BIN)/streamer bench $(ARGS)

# Under nine minutes of one GPU; needs no weights.  What it finds is in artefacts/bench-gpu.
bench-gpu: setup
	$(BIN)/streamer bench gpu $(ARGS)

# Three minutes of a CPU; goes on where it stands.  What it makes can be served.
distill-toy: $(VENV)/.installed-distill
	$(BIN)/streamer distill run toy --out artefacts/distill-toy $(ARGS)
	$(BIN)/streamer generate --config artefacts/distill-toy/export/model/config.json --seconds 0.75 --prompt "the ocean at sunset" \
		--out artefacts/distill-toy/block.mp4

$(VENV)/.installed-distill: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[distill]"
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache artefacts
