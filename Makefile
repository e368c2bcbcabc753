# Two commands: `make run` runs the default scenario, `make test` runs all tests. Both build .venv first.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.complete

# Where the machine has a later Python too, the tests hold its digests against those of the first.
LATER_PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 $(HOME)/.pyenv/versions/3.1[2-9]*/bin/python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo $$python && break; done)
LATER := .venv-later
LATER_STAMP := $(if $(LATER_PYTHON),$(LATER)/.complete)

.PHONY: run test test-drivers test-drivers-guardian test-drivers-others test-nightly benchmark goldens machines clean

run: $(STAMP)
	$(VENV)/bin/twin run gaming

test: $(STAMP) $(LATER_STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -n auto --ignore=tests/drivers
	$(MAKE) test-drivers

# Real drivers in a virtual machine: needs QEMU, busybox-static and apt-get (for Debian's kernel); else it is skipped.
# Two machines at once, since each of them waits for its drivers most of the time.
DRIVERS := $(VENV)/bin/python -m pytest -p no:xdist -s --durations=3

test-drivers: $(STAMP)
	$(MAKE) --jobs=2 --output-sync=target test-drivers-guardian test-drivers-others

test-drivers-guardian: $(STAMP)
	$(DRIVERS) tests/drivers/test_guardian.py

test-drivers-others: $(STAMP)
	$(DRIVERS) tests/drivers --ignore=tests/drivers/test_guardian.py

test-nightly: $(STAMP) $(LATER_STAMP)
	HYPOTHESIS_PROFILE=nightly $(VENV)/bin/python -m pytest -n auto --ignore=tests/drivers
	HYPOTHESIS_PROFILE=nightly $(MAKE) test-drivers

benchmark: $(STAMP)
	$(VENV)/bin/python benchmarks/bars.py

# After a change of the fit; the recordings have to lie beside the checkout.
machines: $(STAMP)
	$(VENV)/bin/python tests/ship_machines.py

# A digest that changes is a release note: write down why in CHANGELOG.md.
goldens: $(STAMP)
	$(VENV)/bin/python tests/goldens.py

# pip older than 25.1 does not know dependency groups, so the environment's own pip is renewed first.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "pulsetwin needs Python 3.11 or later; name one with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(VENV)/bin/python -m pip install --quiet --editable '.[all]' --group test
	@touch $@

$(LATER)/.complete: pyproject.toml
	$(LATER_PYTHON) -m venv --clear $(LATER)
	$(LATER)/bin/python -m pip install --quiet --editable . && touch $@ || \
		echo "$(LATER_PYTHON) cannot have all packages: its digests are not compared"

clean:
	rm -rf $(VENV) $(LATER)
