#!/bin/sh
# Make the virtual environment $1 with the pinned versions. TORCH: auto (CUDA where nvidia-smi answers), cpu or cuda.
set -eu
venv=$1
"$PYTHON" -c 'import sys; sys.exit(f"error: Python {sys.version.split()[0]} is too old: 3.11 or newer is needed; set PYTHON=" if sys.version_info < (3, 11) else 0)'
[ -x "$venv/bin/python" ] || "$PYTHON" -m venv "$venv"
pip="$venv/bin/python -m pip install -qq --disable-pip-version-check"
torch=$(grep '^torch==' constraints.txt)
case $TORCH in
    auto) if nvidia-smi >/dev/null 2>&1; then kind=cuda; else kind=cpu; fi ;;
    cpu|cuda) kind=$TORCH ;;
    *) echo "error: TORCH is '$TORCH': choose auto, cpu or cuda" >&2; exit 2 ;;
esac
echo "installing $torch ($kind) and the pinned packages into $venv: two to four minutes"
# torch alone and first: anything that pulls it in later would choose its own build
if [ $kind = cpu ]; then
    $pip --no-deps "$torch" --index-url https://download.pytorch.org/whl/cpu --retries 1 --timeout 30
else
    $pip "$torch"
fi
$pip -c constraints.txt -e ".[dev,imagenet]"
# for the tests alone, and by itself: it asks for torchvision, which the detectors compared with do not use
$pip --no-deps "$(grep '^pytorch-ood==' constraints.txt)"
