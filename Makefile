# Every target sets up .venv first. `make PYTHON=python3.12 test` builds it with another interpreter,
# `make VENV=/elsewhere test` puts it elsewhere.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDEST := $(VENV)-oldest
EXPLORE := $(VENV)-explore

.PHONY: demo test test-slow test-oldest test-explore lint format docs docs-serve zoo bench-cifar10 bench-swin bench-compare \
	bench-imagenet bench-ablations bench-explain bench-speed clean

demo: $(READY)
	$(BIN)/xpruner demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal --cov --cov-fail-under=90

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# The adapters on the oldest timm and transformers that are supported, in an environment of their own.
test-oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python -m pytest tests/units tests/test_invariants.py tests/test_checkpoint.py

# The page of `xpruner explore`, in an environment of its own: gradio needs an older pillow.
test-explore: $(EXPLORE)/.ready
	$(EXPLORE)/bin/python -m pytest tests/explore

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/mkdocs build --strict
	$(BIN)/python -m pytest tests/test_docs.py

docs-serve: $(READY)
	$(BIN)/mkdocs serve

zoo: $(READY)
	$(BIN)/python benchmarks/zoo.py --workers 2

bench-cifar10: $(READY)
	$(BIN)/python benchmarks/cifar10.py --model deit_tiny

bench-swin: $(READY)
	$(BIN)/python benchmarks/cifar10.py --model swin

bench-compare: $(READY)
	$(BIN)/xpruner compare --config benchmarks/cifar10_deit_tiny.yaml

bench-imagenet: $(READY)
	$(BIN)/xpruner compare --config benchmarks/imagenet_training_free.yaml

bench-ablations: $(READY)
	$(BIN)/xpruner compare --config benchmarks/ablations.yaml

bench-explain: $(READY)
	$(BIN)/xpruner prune --config benchmarks/explained.yaml --budget 0.3 --output runs/cifar03
	$(BIN)/xpruner prune --config benchmarks/explained.yaml --budget 0.8 --output runs/cifar_l2_80 \
		--method l2 --search.allocation block
	$(BIN)/python benchmarks/explanations.py runs/cifar03 --control runs/cifar_l2_80 --images 60 \
		--output explanations_deit_tiny
	$(BIN)/python benchmarks/specialise.py runs/cifar03

bench-speed: $(READY)
	$(BIN)/python benchmarks/speed.py

clean:
	rm -rf .venv .venv-oldest .venv-explore build dist site htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable '.[dev]'
	touch $@

$(EXPLORE)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(EXPLORE)
	grep -v '^pillow==' constraints.txt > $(EXPLORE)/constraints.txt
	$(EXPLORE)/bin/python -m pip install --quiet --constraint $(EXPLORE)/constraints.txt --editable '.[dev,explore]'
	touch $@
