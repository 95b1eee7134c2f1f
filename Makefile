# `make run` and `make test` do all their own set-up and are safe to repeat. ARGS="..." goes to the command.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: run test torture lint figures clean

run: $(READY)
	@$(BIN)/python pipeline.py stage=all $(ARGS)

test: $(READY)
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

# Kills, flipped bytes, crowds and full disks: about 15 minutes on two cores; ARGS="--share 0.2" tries a fifth.
torture: $(READY)
	@$(BIN)/python tests/torture $(ARGS)

# All of docs/RESULTS.md anew, about a day on two cores that do nothing else:
# make figures ARGS="--mnist DIR --cifar10 DIR", or a part of it by --only NAME ...
figures: $(READY)
	@$(BIN)/python -m benchmarks.figures $(ARGS)

lint: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-logo && $(BIN)/mypy -n 2

# The installer's output goes to a log that is shown only when it fails.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) here: install Python 3.11 or newer, or give PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than 3.11: give PYTHON=python3.11 or newer"; exit 1; }
	@echo "setting up .venv (once; a few minutes)"
	@log=$$(mktemp) && { \
	  { [ -x $(BIN)/python ] || $(PYTHON) -m venv .venv; } >$$log 2>&1 \
	  && $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]' >>$$log 2>&1 \
	  && rm -f $$log && touch $@ \
	  || { cat $$log; echo "set-up failed; the log above is in $$log"; exit 1; }; }

clean:
	@rm -rf .venv
