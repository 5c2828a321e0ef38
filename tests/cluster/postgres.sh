#!/bin/sh
# A PostgreSQL server of its own in one directory; the system's clusters are not touched.
#
#   postgres.sh up DIR      start it, with an empty database `pdx`, and print its URL for env.storage
#   postgres.sh stop DIR    stop it as a crash would; `up` starts it again with what it held
#   postgres.sh down DIR    stop it
set -eu
. "$(dirname "$0")/processes.sh"
usage() { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -eq 2 ] || usage
mkdir -p "$2"
dir=$(cd "$2" && pwd)
data="$dir/data"

# Debian keeps a server's programs out of PATH.
for bin in /usr/lib/postgresql/*/bin; do PATH="$PATH:$bin"; done
if ! command -v initdb >/dev/null; then
    echo "postgres.sh: initdb is missing; on Debian or Ubuntu: apt-get install postgresql" >&2
    exit 3
fi

# PostgreSQL refuses to run as root.
as_owner() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && setpriv --reuid=postgres --regid=postgres --clear-groups env PATH="$PATH" "$@")
    else
        "$@"
    fi
}

running() { [ -s "$data/postmaster.pid" ] && as_owner pg_ctl status -D "$data" >/dev/null 2>&1; }

case $1 in
    up)
        if [ ! -s "$data/PG_VERSION" ]; then
            mkdir -p "$data"
            chmod 755 "$dir"
            [ "$(id -u)" != 0 ] || chown postgres "$data"
            as_owner initdb -D "$data" -U pdx --auth=trust --encoding=UTF8 >"$dir/initdb.log" 2>&1
            free_port >"$dir/port"
            as_owner sh -c 'cat >>"$0"' "$data/postgresql.conf" <<END
listen_addresses = '127.0.0.1'
port = $(cat "$dir/port")
unix_socket_directories = ''
max_connections = 300
END
        fi
        port=$(cat "$dir/port")
        if ! running; then
            as_owner pg_ctl start -w -t 60 -D "$data" -l "$data/server.log" >/dev/null
        fi
        asked="-h 127.0.0.1 -p $port -U pdx -d postgres"
        # shellcheck disable=SC2086
        psql $asked -Atc "SELECT 1 FROM pg_database WHERE datname = 'pdx'" | grep -q 1 ||
            psql $asked -qc 'CREATE DATABASE pdx'
        echo "postgresql+psycopg://pdx@127.0.0.1:$port/pdx"
        ;;
    stop) ! running || as_owner pg_ctl stop -m immediate -D "$data" >/dev/null ;;
    down) ! running || as_owner pg_ctl stop -m fast -D "$data" >/dev/null ;;
    *) usage ;;
esac
