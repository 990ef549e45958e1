# The one task runner. `make` alone prints what there is to do.
SHELL := /bin/bash
PY := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help env tools demo test check docs unit interop fuzz bench-live faults wheels image lock clean

help:            ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

env: .venv/.ready ## make .venv from the pinned, hashed requirements
.venv/.ready: requirements.lock pyproject.toml scripts/make-env
	scripts/make-env
	@touch $@

tools: env       ## install the foreign tools that the tests need (DCMTK, Orthanc, stunnel, ...)
	scripts/install-tools

demo: env        ## the main job: a Bridge, two Routers, real DICOM devices; says what happened
	.venv/bin/isthmus demo --once

test: env tools check  ## all that must pass: types, lint, floors, unit, loopback, interop
	$(PY) -m pytest tests -n 3 --dist loadfile --durations 15

check: env       ## ruff, mypy strict, import-linter
	.venv/bin/ruff check src tests bench examples
	.venv/bin/ruff format --check src tests bench examples
	.venv/bin/mypy
	.venv/bin/lint-imports

docs: env        ## write the pages that say what the code says: commands, API, tables
	$(PY) scripts/generate-docs

unit: env        ## the quick tests: no sockets
	$(PY) -m pytest tests/unit tests/vectors

interop: env tools ## foreign DICOM tools across the relay
	$(PY) -m pytest tests/interop

bench-live: env tools ## bench/live: direct, stunnel, SSH and Isthmus side by side
	$(PY) -m bench.live

faults: env      ## the fault suite at nightly counts (hours)
	ISTHMUS_TEST_DEPTH=nightly $(PY) -m pytest tests -m slow

wheels: env      ## Isthmus and all that it needs to run, as wheels in dist/
	scripts/build-wheels

image: env       ## the container image, with buildah
	scripts/build-image

lock: env        ## renew requirements.lock from pyproject.toml (needs uv)
	scripts/lock

clean:           ## remove the environment and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
