# make demo | test | test-all | test-durations | lint | docs | bench
# PYTHON is the interpreter that makes the virtual environment (make test PYTHON=python3.13); VENV is where it lies.
PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
CORE := $(VENV)/.core
EVERYTHING := $(VENV)/.everything
DEMO := outputs/demo

.PHONY: demo test test-all test-durations lint docs bench venv

venv: $(EVERYTHING)

# torch comes first and alone: with its exact version known, no other package can pull in another build of it.
$(CORE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $(CORE)

# What the demo does not need: Ray, MLflow, the service, the tools of the tests, Ptychodus with our plugin in it.
$(EVERYTHING): $(CORE)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,cluster,serve,live,pva,tiled,postgresql,service-tests,ptychodus-tests,docs]'
	$(BIN)/python -m pip install --quiet --no-deps ./ptycho_ray/interop/ptychodus/wheel
	touch $(EVERYTHING)

lint: $(EVERYTHING)
	$(BIN)/ruff check .
	$(BIN)/mypy

# One process of the three waits for Ray most of the time. The order of tests/conftest.py is kept.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: lint
	$(PYTEST) -m 'not slow'

test-durations: $(EVERYTHING)
	$(PYTEST) -m 'not slow' --durations=10

# What `test` leaves out; and the tests with made-up examples once more, with ten times as many.
test-all: test
	TEN_TIMES_THE_EXAMPLES=1 $(PYTEST) -m 'slow or hypothesis' --durations=10

docs: $(EVERYTHING)
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/build/$$($(BIN)/python -c 'import ptycho_ray; print(ptycho_ray.__version__)')
	$(BIN)/python docs/list_versions.py docs/build

bench: $(EVERYTHING)
	@for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

demo: $(CORE)
	$(BIN)/ptycho-ray simulate $(DEMO)/scan.npz --object test_image --object-size 192 --n-patterns 600 --photons 1e7 --seed 22 --overwrite
	$(BIN)/ptycho-ray reconstruct $(DEMO)/scan.npz --output-dir $(DEMO)/image --overwrite
	$(BIN)/ptycho-ray evaluate $(DEMO)/image $(DEMO)/scan.npz
	$(BIN)/ptycho-ray train $(DEMO)/scan.npz --config configs/train/demo.yaml --output-dir $(DEMO)/model --overwrite
	$(BIN)/ptycho-ray compare $(DEMO)/model $(DEMO)/image --scan $(DEMO)/scan.npz --output-dir $(DEMO)/comparison --overwrite
	@echo "The image, by the solver alone, and its verdict: $(DEMO)/image/report.html"
	@echo "Beside a network trained for five epochs (model): $(DEMO)/comparison/comparison_images.png"
