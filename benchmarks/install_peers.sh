#!/bin/sh
# Make a virtual environment in which benchmarks/bench_refinement_peers.py finds the other programs:
#
#     sh benchmarks/install_peers.sh FOLDER [PYTHON]
#
# PYTHON has ptycho_ray and torch; its packages are seen from the new environment and stay as they are (--no-deps).
set -eu
folder=$1
python=${2:-python3}
"$python" -m venv --without-pip "$folder"
inside=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$inside/beside.pth"
torch_before=$("$python" -c 'import torch; print(torch.__version__, torch.__file__)')
"$folder/bin/python" -m pip install --quiet --no-deps ptychi==2.2.0 ptyrad==1.0.0 cdtools-py==0.3.2 quantem==0.1.10 \
    dill zarr==3.1.6 donfig numcodecs google-crc32c colorspacious ase tensorboard tensorboard-data-server absl-py

# Two of them import torchvision for one blur, which the benchmark does not use.
mkdir -p "$inside/torchvision/transforms"
: > "$inside/torchvision/__init__.py"
cat > "$inside/torchvision/transforms/__init__.py" <<'STUB'
class GaussianBlur:
    def __init__(self, *args, **settings):
        raise NotImplementedError("torchvision is not installed")
STUB
cat > "$inside/torchvision/transforms/functional.py" <<'STUB'
def gaussian_blur(*args, **settings):
    raise NotImplementedError("torchvision is not installed")
STUB
# PtyRAD 1.0.0 has an f-string of Python 3.12 although it is declared for 3.10.
sed -i "s/{lr_iters\['niter'\]\[-1\]}/{lr_iters[\"niter\"][-1]}/" "$inside/ptyrad/plotting/basic.py"

torch_now=$("$folder/bin/python" -c 'import torch; print(torch.__version__, torch.__file__)')
[ "$torch_before" = "$torch_now" ] || { echo "torch has changed: $torch_now" >&2; exit 1; }
for module in ptychi.api ptyrad.core cdtools quantem.diffractive_imaging.ptychography; do
    "$folder/bin/python" -c "import $module" || echo "$module cannot be imported; it is left out" >&2
done
