# make demo | test | test-all | lint | bench
# PYTHON is the interpreter that makes the virtual environment; VENV is where it lies.
PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
CORE := $(VENV)/.core
EVERYTHING := $(VENV)/.everything
DEMO := outputs/demo

.PHONY: demo test test-all lint bench venv

venv: $(EVERYTHING)

# torch comes first and alone: with its exact version known, no other package can pull in another build of it.
$(CORE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $(CORE)

# What the demo does not need: Ray, MLflow, the service, the tools of the tests, Ptychodus with our plugin in it.
$(EVERYTHING): $(CORE)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,cluster,serve,live,service-tests,ptychodus-tests]'
	$(BIN)/python -m pip install --quiet --no-deps ./ptycho_ray/interop/ptychodus/wheel
	touch $(EVERYTHING)

lint: $(EVERYTHING)
	$(BIN)/ruff check .
	$(BIN)/mypy

# Two processes share the two cores better than one with two threads does.
test test-all: export OMP_NUM_THREADS = 1

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

test-all: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

bench: $(EVERYTHING)
	@for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

demo: $(CORE)
	$(BIN)/ptycho-ray simulate $(DEMO)/scan.npz --object test_image --object-size 192 --n-patterns 600 --photons 1e7
	$(BIN)/ptycho-ray train $(DEMO)/scan.npz --config configs/train/demo.yaml --output-dir $(DEMO)/model
	$(BIN)/ptycho-ray reconstruct $(DEMO)/scan.npz --model-path $(DEMO)/model --refine 20 --output-dir $(DEMO)/image
	$(BIN)/ptycho-ray evaluate $(DEMO)/image $(DEMO)/scan.npz
	@echo "The picture: $(DEMO)/image/evaluation_images.png   The page: $(DEMO)/image/evaluation.html"
