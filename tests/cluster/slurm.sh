#!/bin/sh
# A Slurm of two nodes, n1 and n2, on this host, whole in one directory: its own munge, its own
# ports, two CPUs and two pretended GPUs a node. The system's own Slurm and munge are not touched.
#
#   slurm.sh up DIR         start what is not running yet; then: export SLURM_CONF=DIR/slurm.conf
#   slurm.sh lose DIR NODE  the node dies: its slurmd and every process of its jobs
#   slurm.sh down DIR       stop all of it
set -eu
. "$(dirname "$0")/processes.sh"
export PATH="$PATH:/usr/sbin:/sbin"
usage() { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
verb=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
export SLURM_CONF="$dir/slurm.conf"

need() {
    command -v "$1" >/dev/null && return
    echo "slurm.sh: $1 is missing; on Debian or Ubuntu: apt-get install $2" >&2
    exit 3
}

alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

configure() {
    [ -s "$SLURM_CONF" ] && return
    host=$(hostname -s)
    base=${PDX_SLURM_PORT:-27000}
    user=$(id -un)
    mkdir -p "$dir/state" "$dir/spool" "$dir/gpus"
    # Slurm wants devices, and sets CUDA_VISIBLE_DEVICES by the digit in their names.
    for i in 0 1; do ln -s /dev/null "$dir/gpus/nvidia$i"; done
    cat >"$dir/gres.conf" <<END
NodeName=n1 Name=gpu Flags=nvidia_gpu_env File=$dir/gpus/nvidia[0-1]
NodeName=n2 Name=gpu Flags=nvidia_gpu_env File=$dir/gpus/nvidia[0-1]
END
    cat >"$SLURM_CONF.part" <<END
ClusterName=pdx
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$base
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
MessageTimeout=20
KillWait=5
MinJobAge=3600
JobAcctGatherType=jobacct_gather/none
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 1)) CPUs=2 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 2)) CPUs=2 Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    mv "$SLURM_CONF.part" "$SLURM_CONF"
}

up() {
    need munged munge
    need slurmctld slurm-wlm
    need slurmd slurm-wlm
    configure
    if ! alive "$dir/munge.pid"; then
        chmod 755 "$dir"
        [ -s "$dir/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
        # --force: it distrusts directories that others can write above its own, such as /tmp.
        munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" \
            --pid-file="$dir/munge.pid" --log-file="$dir/munge.log" --seed-file="$dir/munge.seed" \
            2>>"$dir/munge.err"
    fi
    alive "$dir/slurmctld.pid" || slurmctld
    for node in n1 n2; do
        alive "$dir/$node.pid" || PDX_SLURM_NODE="$dir/$node" slurmd -N "$node"
    done
    for _ in $(seq 150); do
        # A node that was lost comes back as DOWN or not responding (*) for a moment.
        [ "$(sinfo -h -N -o '%N %t' 2>/dev/null | grep -cE '^n[12] (idle|mix|alloc)$')" = 2 ] && return
        sleep 0.2
    done
    echo "slurm.sh: the nodes did not come up; see $dir/*.log" >&2
    sinfo -N -l >&2 || true
    exit 1
}

lose() {
    # slurmd's children inherit its environment, and the jobs' processes have SLURMD_NODENAME.
    pids=$(with_environment "PDX_SLURM_NODE=$dir/$1")
    for pid in $(with_environment "SLURM_CONF=$SLURM_CONF"); do
        if variables "/proc/$pid" | grep -qx "SLURMD_NODENAME=$1"; then pids="$pids $pid"; fi
    done
    # shellcheck disable=SC2086
    kill_hard $pids
    rm -f "$dir/$1.pid"
}

down() {
    if alive "$dir/slurmctld.pid"; then
        squeue -h -o %A 2>/dev/null | sort -u | xargs -r scancel 2>/dev/null || true
    fi
    for node in n1 n2; do lose "$node"; done
    for name in slurmctld munge; do
        if alive "$dir/$name.pid"; then
            pid=$(cat "$dir/$name.pid")
            kill "$pid"
            for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
            kill -9 "$pid" 2>/dev/null || true
        fi
    done
}

case $verb in
    up) up ;;
    lose) [ $# -eq 3 ] || usage; lose "$3" ;;
    down) down ;;
    *) usage ;;
esac
