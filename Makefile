# `make quickstart` and `make test` work from a bare clone: Python 3.11, pip and a package index are all they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
QUICK := $(VENV)/.trains
STAMP := $(VENV)/.installed
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test unit check chaos dist audit docs package clean

quickstart: $(QUICK)
	$(BIN)/recmind run configs/quickstart.yaml
	$(BIN)/recmind recommend runs/quickstart --user 1 --k 10

# in the order of the folders: chaos and dist, whose files take longest, before the many short ones of unit,
# so that no core is idle at the end. By default files of many tests would go first
test: $(STAMP)
	$(BIN)/python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder

unit: $(STAMP)
	$(BIN)/python -m pytest tests/unit

chaos: $(STAMP)
	$(BIN)/python -m pytest tests/chaos -m ""

dist: $(STAMP)
	$(BIN)/python -m pytest tests/dist -m ""

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) audit
	$(MAKE) test

docs: $(STAMP)
	$(BIN)/python .ci/site.py build/site

# sdist and wheel in dist/, checked by twine
package: $(BIN)/python
	PYTHON=$(BIN)/python .ci/package

# a report, never a failure: the lists of known faults change without us
audit: $(STAMP)
	-timeout 200 $(BIN)/python .ci/audit.py

$(BIN)/python:
	$$(command -v $(PYTHON) || command -v python3) -m venv $(VENV)

# --editable so that a change of the code needs no second installation
$(QUICK): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[train,serve]'
	touch $@

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[train,serve,faiss,gguf,docs,dev]'
	touch $(QUICK) $@

clean:
	rm -rf runs cache data models
	find recmind_dist -name "*.nb[ci]" -delete  # compiled loops: numba does not see changes in files that they import
