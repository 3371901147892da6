# Shared by the scripts: where things are, and one way to say what is going on. Sourced, not run.
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${TANDEM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tandem}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# Configures and builds a preset; prints only what is worth reading.
build() { # preset
    local log begun=$SECONDS; log=$(mktemp)
    say "building ($1)"
    if ! { cd "$top" && cmake --preset "$1" && cmake --build --preset "$1"; } >"$log" 2>&1; then
        tail -40 "$log" >&2; rm -f "$log"; die "the $1 build failed"
    fi
    rm -f "$log"
    say "built ($1): $((SECONDS - begun)) s"
}
