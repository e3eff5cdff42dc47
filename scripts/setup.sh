#!/usr/bin/env bash
# Creates the two environments and stamps them; a second run checks the stamps and returns at once.
#   .venv         Python 3.11: the product (requirements.txt) and its test tools (requirements-dev.txt)
#   .venv-vendor  Python 3.10: the vendor's compiler and simulator (requirements-vendor.txt); QATLADDER_VENDOR=0 leaves it out
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
die() { printf 'set-up cannot go on: %s\n' "$*" >&2; exit 1; }

# The interpreter of a version: on PATH, under pyenv, or where the system keeps it; it must be able to make environments.
find_python() {
    local version=$1 candidate root
    root=${PYENV_ROOT:-$(command -v pyenv >/dev/null 2>&1 && pyenv root || echo "$HOME/.pyenv")}
    for candidate in "$(command -v "python$version" || true)" "$root"/versions/"$version".*/bin/python /usr/local/bin/"python$version" \
        /usr/bin/"python$version" /opt/*/bin/"python$version" "$HOME"/.local/share/uv/python/cpython-"$version".*/bin/python3; do
        [ -x "$candidate" ] || continue
        if "$candidate" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" >/dev/null 2>&1; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

stamp_of() { cat "$@" | sha256sum | cut -d' ' -f1; }

missing=""
[ "$(uname -s)-$(uname -m)" = "Linux-x86_64" ] || missing="$missing
  - Linux on x86_64 (this is $(uname -s) on $(uname -m))"
python311=$(find_python 3.11) || missing="$missing
  - Python 3.11 with venv and ensurepip (Debian: apt-get install python3.11 python3.11-venv; or pyenv install 3.11)"
if [ "${QATLADDER_VENDOR:-1}" != 0 ]; then
    python310=$(find_python 3.10) || missing="$missing
  - Python 3.10 with venv, for the vendor's compiler and simulator (pyenv install 3.10);
    or set QATLADDER_VENDOR=0 to validate float, calib and qat only"
fi
[ -z "$missing" ] || die "missing:$missing"

stamp="$(stamp_of requirements.txt requirements-dev.txt pyproject.toml scripts/setup.sh) $PWD"
if [ "$(cat .venv/.stamp 2>/dev/null)" != "$stamp" ]; then
    say "set-up: .venv with $python311 (about two minutes)"
    rm -f .venv/.stamp
    [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null || "$python311" -m venv --clear .venv
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps -r requirements.txt -r requirements-dev.txt
    # Where the index offers only a CUDA build of torch, that build needs its own dependencies to import.
    .venv/bin/python -c 'import torch' 2>/dev/null || .venv/bin/python -m pip install -qq "$(grep '^torch==' requirements.txt)"
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
    echo "$stamp" >.venv/.stamp
fi

if [ "${QATLADDER_VENDOR:-1}" != 0 ]; then
    stamp="$(stamp_of requirements-vendor.txt) $PWD"
    if [ "$(cat .venv-vendor/.stamp 2>/dev/null)" != "$stamp" ]; then
        say "set-up: .venv-vendor with $python310 (about one minute; proprietary packages, see the README; QATLADDER_VENDOR=0 opts out)"
        rm -f .venv-vendor/.stamp
        [ -x .venv-vendor/bin/python ] && .venv-vendor/bin/python -c '' 2>/dev/null || "$python310" -m venv --clear .venv-vendor
        .venv-vendor/bin/python -m pip install -qq --disable-pip-version-check --no-deps -r requirements-vendor.txt
        echo "$stamp" >.venv-vendor/.stamp
    fi
fi
