#!/usr/bin/env bash
# What a GPU computes, and how fast, in one command and without a network.
#
#   bash benchmarks/gpu_day.sh pack                  where there is a network: wheels for the machine with the GPU, into .wheels
#   bash benchmarks/gpu_day.sh OUT [--quick] [--minutes 24]
#
# The machine with the GPU has a python3 with torch, numpy, scipy, h5py, scikit-image and pytest. What the program needs besides
# (pydantic, tyro) it takes from .wheels if its own python3 lacks it; nothing is installed into that python3.
# Packing is for Python 3.12 on x86-64; PYTHON_VERSION=3.11 packs for another one.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
wheels=$root/.wheels

if [ "${1:-}" = pack ]; then
    exec python3 -m pip download --no-deps --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest "$wheels" \
        pydantic==2.14.3 pydantic-core==2.50.4 annotated-types typing-inspection typing-extensions tyro==1.0.17 \
        docstring-parser typeguard
fi

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python=${PYTHON:-python3}
if ! "$python" -c "import pydantic, tyro" 2>/dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
fi
# Filters for compressed files, which nothing here reads; their package is larger than all the rest.
"$python" -c "import hdf5plugin" 2>/dev/null || : >"$site/hdf5plugin.py"
PYTHONPATH=$root:$site${PYTHONPATH:+:$PYTHONPATH} "$python" "$root/benchmarks/gpu_day.py" "$@"
