#!/usr/bin/env bash
# Bring deploy/local.yaml up on this machine, over ssh to loopback, run a job on it, and take it down again.
#
#   deploy/loopback.sh [CONFIG.yaml [key=value ...]]       default: configs/demo.yaml, into runs/loopback/
#
# Two nodes, 127.0.0.1 and 127.0.0.2, each with an sshd, a home, a /tmp/ray and a process table of its own, in a network
# that holds nothing but loopback: `ray up`, `ray down` and the autoscaler call `ray stop`, which ends every Ray process
# it can see. Nothing outlives the script but the run; host keys, client key and token are made for it and thrown away.
# Needs root, Linux namespaces (unshare, mount, ip), sshd, ssh and rsync: apt-get install openssh-server rsync iproute2.
# Exit codes: those of the job (0 complete, 2 wrong request, 3 some images failed, 1 broke off), 2 also where something
# that is needed is missing, 4 where the cluster could not be brought up or left a process behind.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)

refuse() {
    echo "error: $1" >&2
    exit 2
}

live_in() { # give this namespace its own home: ssh goes by the home in /etc/passwd, whatever HOME says
    sed -E "s#^root:(([^:]*:){4})[^:]*:#root:\\1$1:#" /etc/passwd > "$1/passwd"
    mount --bind "$1/passwd" /etc/passwd
    export HOME=$1
}

# --- outside: check, make the folder, enter the namespaces ------------------------------------------------------------
if [[ ${1-} != --inside ]]; then
    [[ $(uname) == Linux ]] || refuse "deploy/loopback.sh needs Linux"
    ((EUID == 0)) || refuse "deploy/loopback.sh needs root, for namespaces and for sshd on port 22 inside of them"
    export PATH=$PATH:/usr/sbin:/sbin
    for tool in unshare mount ip sshd ssh ssh-keygen rsync; do
        command -v "$tool" > /dev/null ||
            refuse "deploy/loopback.sh needs $tool: apt-get install openssh-server rsync iproute2"
    done
    [[ -x $root/.venv/bin/ray ]] || refuse "deploy/loopback.sh needs the environment: make .venv"
    enter=(unshare --net --pid --mount --uts --fork --kill-child --mount-proc)
    "${enter[@]}" true 2> /dev/null || refuse "deploy/loopback.sh needs namespaces, which this machine does not allow"

    work=$(mktemp -d)
    "${enter[@]}" "$0" --inside "$work" "$@" &
    inside=$!
    clean() {
        kill -KILL "$inside" 2> /dev/null || true # with its first process a process namespace ends as a whole
        wait || true
        local hash # of the cluster's name: ssh keeps its sockets under it
        hash=$(basename "$work" | tr -d '\n' | sha256sum | cut -c1-10)
        rm -rf "$work" /tmp/ray_ssh_*/"$hash"
    }
    trap clean EXIT
    trap 'exit 130' INT TERM
    wait "$inside"
    exit
fi

# --- a node: its own processes, its own /tmp/ray, an sshd ------------------------------------------------------------
if [[ $2 == --node ]]; then
    mount -t tmpfs tmpfs /tmp/ray
    live_in "$3"
    trap 'exit 0' TERM
    "$(command -v sshd)" -D -e -f "$HOME/sshd_config" &
    wait
    exit
fi

# --- inside: keys, two nodes, the cluster, the job --------------------------------------------------------------------
work=$2
shift 2
config=${1:-configs/demo.yaml}
overrides=("${@:2}")
[[ ${overrides[*]-} == *output=* ]] || overrides+=(output="$root/runs/loopback")

mount --make-rprivate /
mkdir -p /tmp/ray /run/sshd
mount -t tmpfs -o mode=755 tmpfs /run/sshd
mount -t tmpfs tmpfs /tmp/ray
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
hostname localhost # with no route out, Ray looks its own address up under this name

mkdir -p "$work"/{client,127.0.0.1,127.0.0.2}
live_in "$work/client"
export TMPDIR=$work PATH=$root/.venv/bin:$PATH
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_UP_enable_autoscaler_v2=1
mkdir -p "$HOME/.ray" "$HOME/.ssh"
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32))' > "$HOME/.ray/auth_token")
ssh-keygen -q -t ed25519 -N '' -f "$HOME/.ssh/id_ed25519"
for address in 127.0.0.1 127.0.0.2; do
    home=$work/$address
    ln -s "$root/.venv" "$home/ipsolve-env" # the set-up commands find all there and need no network
    touch "$home/.bashrc"
    ssh-keygen -q -t ed25519 -N '' -f "$home/host_key"
    cat > "$home/sshd_config" << CONFIG
ListenAddress $address:22
HostKey $home/host_key
AuthorizedKeysFile $HOME/.ssh/id_ed25519.pub
PidFile $home/sshd.pid
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PrintMotd no
CONFIG
    unshare --pid --mount --fork --kill-child --mount-proc "$0" --inside --node "$home" &> "$home/sshd.log" &
done


cd "$root"
python - "$work" << 'PYTHON'
import pathlib, sys, yaml
work = pathlib.Path(sys.argv[1])
cluster = yaml.safe_load(pathlib.Path("deploy/local.yaml").read_text())
cluster["cluster_name"] = work.name  # ssh keeps its connections under this name in /tmp, for all who use it
cluster["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": ["127.0.0.2"]}
cluster["auth"]["ssh_user"] = "root"
cluster["min_workers"] = 1  # a demo is over before it would have made the second node start
(work / "cluster.yaml").write_text(yaml.safe_dump(cluster))
PYTHON

step() { printf '\n== %3d s  %s\n' "$SECONDS" "$1"; }

fail() {
    echo "error: $1" >&2
    tail -n 60 "$work"/*.log >&2
    exit 4
}

step "ray up: the head, 127.0.0.1"
ray up --yes --no-config-cache --disable-usage-stats "$work/cluster.yaml" < /dev/null &> "$work/up.log" ||
    fail "ray up failed"

step "ray dashboard: the job server of the head, here"
ray dashboard --port 8266 --remote-port 8265 --no-config-cache "$work/cluster.yaml" < /dev/null &> "$work/forward.log" &
export RAY_API_SERVER_ADDRESS=http://127.0.0.1:8266

step "waiting for the worker, 127.0.0.2: the autoscaler starts it, over ssh from the head"
until ray list nodes --format json 2> "$work/nodes.log" | grep -q '"node_ip": "127.0.0.2"'; do
    ((SECONDS < 300)) || fail "no worker after $SECONDS s"
    sleep 2
done

step "ray job submit: $config ${overrides[*]}"
ray job submit --submission-id loopback --runtime-env deploy/runtime_env.yaml --working-dir . -- \
    python -m ray_jobs.evaluate "$config" "${overrides[@]}" < /dev/null || true # 1 for all that is not 0
code=$(python -c '
from ray.job_submission import JobSubmissionClient
code = JobSubmissionClient().get_job_info("loopback").driver_exit_code
print(1 if code is None else code)')

step "ray down"
ray down --yes "$work/cluster.yaml" < /dev/null &> "$work/down.log" || fail "ray down failed"
left() { ps -eo args= | grep -cE "$1" || true; }
(($(left '[g]cs_server|[d]ashboard.py') == 0)) || fail "ray down left the head running"
# `ray down` leaves the workers of this provider alone: without a head they end by themselves after two minutes
quiet=(-n -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null)
ssh "${quiet[@]}" root@127.0.0.2 'bash -ic "ray stop"' &> "$work/stop.log" || true
(($(left '[r]aylet/raylet|^[r]ay::') == 0)) || fail "a worker is left running"

step "down, no Ray process left; the job ended with $code, and the run says:"
python - "$config" "${overrides[@]}" << 'PYTHON'
import pathlib, sys
from ipsolve.runs.config import load_config
from ipsolve.requests.errors import RequestError
try:
    status = pathlib.Path(load_config(sys.argv[1], sys.argv[2:]).run_location, "status.json")
    print(status.read_text() if status.exists() else f"{status} is not there")
except RequestError as error:
    print(f"error: {error}")
PYTHON
exit "$code"
