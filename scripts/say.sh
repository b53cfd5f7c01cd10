# shellcheck shell=bash
# Sourced by the other scripts: how they speak, and how they become root.

began=$SECONDS

say() { printf '\033[1m==>\033[0m %s \033[2m(%ss)\033[0m\n' "$*" "$((SECONDS - began))"; }
note() { printf '    %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
if [ ! -t 1 ] || [ -n "${NO_COLOR:-}" ]; then
    say() { printf '==> %s (%ss)\n' "$*" "$((SECONDS - began))"; }
fi

# Whether a person may be asked something.
asking() { [ -t 0 ] && [ -t 1 ] && [ "${KAT_YES:-}" != 1 ] && [ -z "${CI:-}" ]; }

# agreed QUESTION: yes without a person; a person has to say so.
agreed() {
    asking || return 0
    local answer
    read -r -p "    $1 [Y/n] " answer
    case "$answer" in [nN]*) return 1 ;; *) return 0 ;; esac
}

# as_root COMMAND...: sudo only if needed.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        command -v sudo >/dev/null || fail "this needs root, and there is no sudo: run it as root"
        sudo --preserve-env=KAT_YES,NO_COLOR "$@"
    fi
}

# kat_agent ARGUMENTS...: the agent's command as root, with the contexts of katcall in the home of whoever runs this.
kat_agent() {
    local contexts=${KAT_CONFIG:-${XDG_CONFIG_HOME:-$HOME/.config}/kat/config.json} code=0
    as_root env "KAT_CONFIG=$contexts" .venv/bin/kat-agent "$@" || code=$?
    [ "$(id -u)" = 0 ] || ! as_root test -d "$(dirname "$contexts")" ||
        as_root chown -R "$(id -u):$(id -g)" "$(dirname "$contexts")"
    return "$code"
}
