# make demo | test | test-all | lint | bench
# PYTHON is the interpreter that makes the virtual environment; VENV is where it lies.
PYTHON ?= python3
VENV ?= .venv
export OMP_NUM_THREADS ?= 1
export MPLBACKEND = Agg

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all lint bench venv

venv: $(STAMP)

# torch comes first and alone: with its exact version known, no other package can pull in another build of it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

test-all: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

bench: $(STAMP)
	@for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

demo: $(STAMP)
	$(BIN)/python -m ptycho_ray simulate outputs/demo/train.npz --seed 1
	$(BIN)/python -m ptycho_ray simulate outputs/demo/test.npz --seed 2
	$(BIN)/python -m ptycho_ray train outputs/demo/train.npz --config configs/train/demo.yaml --output-dir outputs/demo/model
	$(BIN)/python -m ptycho_ray reconstruct outputs/demo/test.npz --model-path outputs/demo/model --output-dir outputs/demo/image
	$(BIN)/python -m ptycho_ray evaluate outputs/demo/image outputs/demo/test.npz
