# Shared by the scripts in this directory and by .ci/run: source it, do not run it. Bash.
#
#   . "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
#   ensure_venv "test,lint"       # ./.venv with this package (editable) and these extras; $VENV names it
#   "$VENV/bin/python" manage.py …
#
# Python is $PYTHON, or python3; the place is $VENV, or .venv at the root of the checkout.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${VENV:-$ROOT/.venv}"

# ensure_venv EXTRAS [REQUIREMENT...]
#
# Make $VENV and install the package editable with EXTRAS (comma-separated names of optional dependencies in
# pyproject.toml) and any further requirements. Does nothing when the same was installed before, with the same
# interpreter, from the same pyproject.toml. What earlier calls installed stays: extras add up.
ensure_venv() {
    local extras="$1"; shift
    local python="${PYTHON:-python3}" version stamp
    version="$("$python" -c 'import sys; print(*sys.version_info[:3], sep=".")')" || {
        echo "No Python at '$python': set PYTHON to a Python 3.11 or newer." >&2
        return 1
    }
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "'$python' is Python $version, but 3.11 or newer is needed: set PYTHON." >&2
        return 1
    }
    stamp="$(_stamp "$version" "$extras" "$@")"
    grep -qsxF "$stamp" "$VENV/.installed" && return 0
    (
        # Two scripts at once must not install into one place.
        mkdir -p "$VENV"
        command -v flock >/dev/null && exec 9>"$VENV.lock" && flock 9
        grep -qsxF "$stamp" "$VENV/.installed" && exit 0
        echo "Installing into ${VENV#"$ROOT"/}: Python $version, django-jobqueue[$extras] $*" >&2
        if [ "$("$VENV/bin/python" -c 'import sys; print(*sys.version_info[:3], sep=".")' 2>/dev/null)" != "$version" ]; then
            "$python" -m venv --clear "$VENV" || exit 1
        fi
        # An earlier stamp of another pyproject.toml says nothing about this one.
        grep -sF "$(_pyproject) " "$VENV/.installed" >"$VENV/.installed.new" || true
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
            --editable "$ROOT[$extras]" "$@" >&2 || exit 1
        echo "$stamp" >>"$VENV/.installed.new"
        mv "$VENV/.installed.new" "$VENV/.installed"
    )
}

# ensure_mysqlclient: Django's driver for MariaDB and MySQL, where the headers and the compiler are that it is built with.
# It is no error if they are missing, or if the build fails: the tests then do without, and say so.
ensure_mysqlclient() {
    can_build_mysqlclient || return 0
    ensure_venv mysql || echo "mysqlclient cannot be built here, see above; PyMySQL stands in for it." >&2
}

can_build_mysqlclient() {
    local library
    command -v pkg-config >/dev/null || return 1
    command -v "${CC:-cc}" >/dev/null || command -v gcc >/dev/null || return 1
    for library in mysqlclient mariadb libmariadb perconaserverclient; do  # the names that its build asks for
        pkg-config --exists "$library" && return 0
    done
    return 1
}

# The place belongs to it: a copied checkout brings a .venv along that points at the original.
_pyproject() { echo "$ROOT $(cksum <"$ROOT/pyproject.toml" | tr ' ' -)"; }

_stamp() { echo "$(_pyproject) $*"; }
