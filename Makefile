# Two commands: `make run` runs the default scenario, `make test` runs all tests. Both build .venv first.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.complete

.PHONY: run test test-nightly benchmark clean

run: $(STAMP)
	$(VENV)/bin/twin run gaming

test: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m pytest -n auto

test-nightly: $(STAMP)
	HYPOTHESIS_PROFILE=nightly $(VENV)/bin/python -m pytest -n auto

benchmark: $(STAMP)
	$(VENV)/bin/twin benchmark

# pip older than 25.1 does not know dependency groups, so the environment's own pip is renewed first.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "pulsetwin needs Python 3.11 or later; name one with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(VENV)/bin/python -m pip install --quiet --editable '.[all]' --group test
	touch $@

clean:
	rm -rf $(VENV)
