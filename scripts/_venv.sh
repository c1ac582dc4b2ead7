# Sourced by the scripts beside it: `ensure_venv [EXTRA]` makes .venv and installs calibrant into it.
#
# A stamp in .venv holds a hash of what the installation was made from (project file, constraints,
# folder), so that a second call costs milliseconds. Needs Python 3.11 or later, pip and a package index;
# PYTHON=/path/to/python chooses the interpreter.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"

_make_venv() { # the first interpreter that is new enough and can make an environment
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    "$candidate" -m venv --clear "$venv" >/dev/null 2>&1 && return 0
  done
  echo "No Python 3.11 or later with the venv module was found (tried: ${PYTHON:-python3.11 python3.12 python3.13 python3}). Set PYTHON to one." >&2
  return 1
}

ensure_venv() {
  local extra="${1:-}" wanted target
  wanted="$(cat "$root/pyproject.toml" "$root/scripts/constraints.txt" <(echo "$root") | sha256sum | cut -d' ' -f1)"
  if [ -x "$venv/bin/python" ]; then
    local stamp stamps="$extra"
    [ -z "$extra" ] && stamps="core dev docs" # an installation with an extra holds the plain one
    for stamp in $stamps; do
      [ "$(cat "$venv/.stamp-$stamp" 2>/dev/null)" = "$wanted" ] && return 0
    done
  fi
  if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    [ "$(cat "$venv/.root" 2>/dev/null)" != "$root" ]; then
    echo "Making the environment .venv …" >&2
    _make_venv
    echo "$root" >"$venv/.root"
  fi
  target="$root${extra:+[$extra]}"
  echo "Installing calibrant${extra:+[$extra]} into .venv …" >&2
  PIP_CONSTRAINT="$root/scripts/constraints.txt" "$venv/bin/python" -m pip install \
    --quiet --disable-pip-version-check --no-input --editable "$target" >&2
  echo "$wanted" >"$venv/.stamp-${extra:-core}"
}
