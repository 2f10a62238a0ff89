# Two commands on a fresh machine: `make demo` and `make test`. Each makes .venv if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# uv takes find-links from its own variable, pip from its settings; constraints.txt pins torch's build for developers
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tarsia needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[all,dev]'
	touch $(READY)

.PHONY: help setup demo train test soak check bench clean
help: ## these lines
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(READY) ## the virtual environment, with everything

demo: $(READY) ## the whole story on the corpora in examples/
	rm -rf lake
	$(BIN)/tarsia demo lake

train: $(READY) ## a tiny model through all stages of the demo's lake
	$(BIN)/torchrun --nproc-per-node 2 examples/train/train.py lake --model vita-1.5 --batch 2 --epochs 2 --stages 1.1 1.2 1.3 2.1 2.2 3.1 3.2

test: $(READY) ## all tests
	$(BIN)/python -m pytest -n auto --dist loadfile

soak: $(READY) ## the long tests: a Ray that takes jobs, a stream that is resumed thousands of times
	$(BIN)/python -m pytest -m soak

check: $(READY) ## ruff, strict types, documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types && $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target build/types .
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p tarsia
	$(BIN)/python -m pytest -q tests/test_docs.py

bench: $(READY) ## benchmarks, each beside its peers
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

clean: ## what was built
	rm -rf $(VENV) build lake run *.egg-info
