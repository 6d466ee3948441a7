#!/usr/bin/env bash
# venv.sh DIR REQUIREMENTS: makes a Python environment that has exactly the
# pinned packages. DIR/ready says that it is complete.
set -euo pipefail

dir=$1 requirements=$2
rm -rf "$dir"
mkdir -p "$(dirname "$dir")"
python3 -m venv "$dir"
"$dir/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$requirements"
"$dir/bin/pip" check >/dev/null
touch "$dir/ready"
