#!/bin/sh
# Put uv, which does the rest of the set-up, into a folder: scripts/uv.sh FOLDER VERSION [PYTHON]
#
# Any Python from 3.9 with venv will do, whatever the project itself needs: it only runs pip once. Where there is none,
# a uv on PATH will do as well, and brings a Python by itself. Plain sh, for nothing else is there yet.
set -eu
folder=$1 version=$2 python=${3:-python3}

# Also needed: ensurepip, which Debian and Ubuntu keep in a package apart from venv.
check='import sys; sys.version_info < (3, 9) and sys.exit("is Python " + sys.version.split()[0] + ", which is before 3.9")
try:
    import ensurepip, venv
except ImportError as missing:
    sys.exit("is Python " + sys.version.split()[0] + " without " + missing.name + " (on Debian and Ubuntu: the package python3-venv)")'

if ! command -v "$python" >/dev/null 2>&1; then
    fault="$python is not there"
elif fault=$("$python" -c "$check" 2>&1); then
    echo "Installing uv $version with $("$python" --version)" >&2
    "$python" -m venv "$folder"
    exec "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$version"
else
    # The last line, for a launcher of several Pythons may write more.
    fault="$python $(printf '%s\n' "$fault" | tail -n 1)"
fi

if command -v uv >/dev/null 2>&1; then
    echo "Installing uv $version with $(uv --version): $fault" >&2
    rm -rf "$folder"
    uv venv --quiet --no-project --python '>=3.11,<3.15' "$folder"
    exec uv pip install --quiet --python "$folder/bin/python" "uv==$version"
fi
echo "The set-up needs any Python from 3.9 with venv, or uv on PATH, and $fault: install either, or name a Python in PYTHON=." >&2
exit 1
