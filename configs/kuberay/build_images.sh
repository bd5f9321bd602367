#!/usr/bin/env bash
# The two images of the pods, under the names that the files beside this one use.
#   configs/kuberay/build_images.sh                         ptycho-ray:VERSION (CUDA) and ptycho-ray:VERSION-cpu
#   configs/kuberay/build_images.sh registry.example.org/   the same with this prefix, and pushed
# DOCKER=podman builds with another program.
set -euo pipefail
cd "$(dirname "$0")/../.."
prefix=${1:-}
docker=${DOCKER:-docker}
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' ptycho_ray/__init__.py)

build() { # TAG [ARGUMENTS]
    local image=${prefix}ptycho-ray:$1
    "$docker" build -f configs/kuberay/Dockerfile -t "$image" "${@:2}" .
    if [ -n "$prefix" ]; then "$docker" push "$image"; fi
}
build "$version"
build "$version-cpu" --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
