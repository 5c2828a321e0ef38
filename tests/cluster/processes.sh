# Sourced by the scripts beside it: a node's processes are known by what they inherited.

variables() { cat "$1/environ" 2>/dev/null | tr '\0' '\n'; }

# Processes whose environment has the line $1: pids, one a line.
with_environment() {
    for proc in /proc/[0-9]*; do
        if variables "$proc" | grep -qxF "$1"; then echo "${proc#/proc/}"; fi
    done
}

# Kill pids, gone ones among them.
kill_hard() { [ $# -eq 0 ] || kill -9 "$@" 2>/dev/null || true; }

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
