#!/bin/sh
# A Ray cluster of three nodes on this host: a head that runs no tasks, and n1 and n2 with two CPUs
# and two pretended GPUs each. Other Ray clusters here are not touched.
#
#   ray.sh up DIR           start what is not running yet, and print the head's address; then:
#                           export RAY_AUTH_MODE=disabled
#   ray.sh lose DIR NODE    the node dies: its raylet and every process of its tasks
#   ray.sh down DIR         stop all of it
set -eu
. "$(dirname "$0")/processes.sh"
usage() { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
verb=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
export RAY_USAGE_STATS_ENABLED=0 RAY_DISABLE_IMPORT_WARNING=1
# A token in ~/.ray, which a Ray of its own writes, is asked of nodes and not sent by them.
export RAY_AUTH_MODE=disabled
# A lost node is noticed in seconds: the default is half a minute.
export RAY_health_check_period_ms=1000 RAY_health_check_failure_threshold=5
export RAY_health_check_initial_delay_ms=2000

if ! command -v ray >/dev/null; then
    echo "ray.sh: ray is missing; run: python -m pip install 'pdx[ray]'" >&2
    exit 3
fi

# Every process of a node inherits its name from `ray start`: pids, one a line.
of_node() { with_environment "PDX_RAY_NODE=$dir/$1"; }

lose() {
    for _ in 1 2; do  # once more for what was being started
        # shellcheck disable=SC2046
        kill_hard $(of_node "$1")
    done
}

start() {
    node=$1
    shift
    [ -n "$(of_node "$node")" ] && return
    for _ in 1 2 3; do  # Ray gives a node 30 s to start, which a busy host may not
        PDX_RAY_NODE="$dir/$node" ray start "$@" --disable-usage-stats >"$dir/$node.log" 2>&1 &&
            return
        lose "$node"
    done
    echo "ray.sh: $node did not start; $dir/$node.log ends:" >&2
    tail -n 20 "$dir/$node.log" >&2
    exit 1
}

case $verb in
    up)
        [ -s "$dir/port" ] || free_port >"$dir/port"
        address="127.0.0.1:$(cat "$dir/port")"
        start head --head --node-ip-address=127.0.0.1 --port="$(cat "$dir/port")" --num-cpus=0 \
            --num-gpus=0 --include-dashboard=false --temp-dir="$dir/tmp" \
            --object-store-memory=80000000
        for node in n1 n2; do
            start "$node" --address="$address" --node-ip-address=127.0.0.1 --num-cpus=2 \
                --num-gpus=2 --object-store-memory=80000000
        done
        echo "$address"
        ;;
    lose) [ $# -eq 3 ] || usage; lose "$3" ;;
    down) for node in n1 n2 head; do lose "$node"; done ;;
    *) usage ;;
esac
