#!/usr/bin/env bash
# SmartNat at work, on one machine: a border with two external interfaces, a client behind each, two pods, an outsider.
#
#   client1 192.0.2.10 ── r1 ── 203.0.113.0/24 ── eth1 ┐              ┌ pod1 10.244.1.2
#                                                     border ─ eth0 ─ core
#   client2 192.0.2.130 ─ r2 ── 198.51.100.0/24 ─ eth2 ┘  10.0.0.0/24  └ pod2 10.244.2.2
#   outsider 203.0.113.66 ──────┘
#
# With --cluster, Mappings, Services and EndpointSlices stand in a real Kubernetes API server behind the core, and kubectl tells the story.
#
# Everything happens in network namespaces of its own, which are removed at the end, also after a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=tests/prepare.sh
. tests/prepare.sh
cluster=
case "${1-}" in
    "") ;;
    --cluster) cluster=yes ;;
    *) die "usage: tests/demo.sh [--cluster]" ;;
esac
need_root
if [ -z "${SMARTNAT_DEMO_PROGRAMS-}" ]; then
    need_tools
    need_cargo
elif [ -n "$cluster" ]; then
    die "--cluster builds a control plane, for which these programs alone do not do: run tests/demo.sh --cluster in the repository, on Debian 12."
fi
[ -z "$cluster" ] || need_control_plane

run=sn-demo-$$
work=$(mktemp -d)
declare -a background=()
exec {plane_in}</dev/null

finish() {
    local code=$?
    trap - EXIT
    # The control plane ends, and cleans up, with its input.
    exec {plane_in}>&- || true
    for pid in "${background[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    for ns in border core pod1 pod2 r1 r2 client1 client2 outsider; do ip netns del "$run-$ns" 2>/dev/null || true; done
    [ "$code" -eq 0 ] || { echo; echo "The demo failed (exit $code). The daemon said last:"; tail -n 20 "$work/daemon.log" 2>/dev/null; }
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

on() { local ns=$1; shift; ip netns exec "$run-$ns" "$@"; }
# link NS1 IF1 NS2 IF2: a cable between two namespaces.
link() {
    ip link add "$2" netns "$run-$1" type veth peer name "$4" netns "$run-$3"
    on "$1" ip link set dev "$2" up
    on "$3" ip link set dev "$4" up
}
# switch NS PORT...: these interfaces of a namespace share one segment.
switch() {
    local ns=$1 port; shift
    on "$ns" ip link add br0 type bridge
    on "$ns" ip link set br0 up
    for port in "$@"; do on "$ns" ip link set dev "$port" master br0; done
}
# until_true SECONDS COMMAND...: waits for a condition.
until_true() {
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || { echo "waited in vain for: $*" >&2; return 1; }
        read -rt 0.1 <> <(:) || true
    done
}

# Starts etcd and kube-apiserver, connects them to the core, and sets namespace, address, server, kubeconfig and kubectl.
start_control_plane() {
    local line
    mkfifo "$work/plane-in" "$work/plane-out"
    "$control_plane" <"$work/plane-in" >"$work/plane-out" &
    exec {plane_in}>"$work/plane-in"
    while read -r line && [ "$line" != ready=yes ]; do declare -g "${line?}"; done <"$work/plane-out"
    [ -n "${namespace-}" ] || die "the control plane did not start"
    ip link add plane netns "$run-core" type veth peer name demo netns "$namespace"
    on core ip link set plane up
    on core ip addr add 10.0.9.1 peer "$address" dev plane
    ip -n "$namespace" link set demo up
    ip -n "$namespace" route add 10.0.9.1 dev demo
    ip -n "$namespace" route add default via 10.0.9.1
}
# kubectl, shown as it would be typed.
kc() {
    printf '  \033[1m$ kubectl %s\033[0m\n' "$*"
    kubectl_quietly "$@" | sed 's/^/  /'
}
kubectl_quietly() { ip netns exec "$namespace" env KUBECONFIG="$kubeconfig" "$kubectl" "$@"; }

is_ready() { on border "$manager" status --json | grep -q '"ready": true'; }
# The daemon's own process is the job, so that it can be killed.
start_daemon() {
    ip netns exec "$run-border" "$manager" >>"$work/daemon.log" 2>&1 &
    daemon=$!
    background+=("$daemon")
    until_true 20 is_ready
}

say "Building (the first time takes some minutes)"
if [ -n "${SMARTNAT_DEMO_PROGRAMS-}" ]; then
    # Built already, as where Nix builds.
    [ -z "$cluster" ] || die "--cluster takes a program that is built from source: run it without SMARTNAT_DEMO_PROGRAMS."
    manager=$SMARTNAT_DEMO_PROGRAMS/smartnat-manager
    peer=$SMARTNAT_DEMO_PROGRAMS/peer
else
    cargo build --bin smartnat-manager --example peer ${cluster:+--example control_plane}
    manager=$PWD/target/debug/smartnat-manager
    peer=$PWD/target/debug/examples/peer
fi
control_plane=$PWD/target/debug/examples/control_plane

say "Laying out the network in namespaces $run-*"
for ns in border core pod1 pod2 r1 r2 client1 client2 outsider; do
    ip netns add "$run-$ns"
    on "$ns" ip link set lo up
done
link border eth0 core border
link core pod1 pod1 eth0
link core pod2 pod2 eth0
link border eth1 r1 border
link r1 outsider outsider eth0
link r1 client1 client1 eth0
link border eth2 r2 border
link r2 client2 client2 eth0
switch r1 border outsider

on core ip addr add 10.0.0.1/24 dev border
on core ip addr add 10.244.1.1/24 dev pod1
on core ip addr add 10.244.2.1/24 dev pod2
on core sysctl -qw net.ipv4.ip_forward=1
on pod1 ip addr add 10.244.1.2/24 dev eth0
on pod1 ip route add default via 10.244.1.1
on pod2 ip addr add 10.244.2.2/24 dev eth0
on pod2 ip route add default via 10.244.2.1

on border ip addr add 10.0.0.2/24 dev eth0
on border ip addr add 203.0.113.10/24 dev eth1
on border ip addr add 203.0.113.11/24 dev eth1
on border ip addr add 198.51.100.10/24 dev eth2
on border ip route add default via 10.0.0.1
on border ip route add 10.244.0.0/16 via 10.0.0.1
on border ip route add 10.96.0.0/16 via 10.0.0.1

on r1 ip addr add 203.0.113.1/24 dev br0
on r1 ip addr add 192.0.2.1/25 dev client1
on r1 sysctl -qw net.ipv4.ip_forward=1
on client1 ip addr add 192.0.2.10/25 dev eth0
on client1 ip route add default via 192.0.2.1
on outsider ip addr add 203.0.113.66/24 dev eth0
on outsider ip route add default via 203.0.113.10
on r2 ip addr add 198.51.100.1/24 dev border
on r2 ip addr add 192.0.2.129/25 dev client2
on r2 sysctl -qw net.ipv4.ip_forward=1
on client2 ip addr add 192.0.2.130/25 dev eth0
on client2 ip route add default via 192.0.2.129

for n in 1 2; do
    ip netns exec "$run-pod$n" "$peer" serve --name "pod$n" --tcp 8080 --udp 9090 & background+=($!)
done

export SNCTRLR_DEFAULT_GW_INTERFACE=eth0 SNCTRLR_INTERFACES_PATTERN='eth[1-9][0-9]*' SNCTRLR_STATE_DIR=$work/state
export SNCTRLR_INSTANCE_NAME=border-1
if [ -n "$cluster" ]; then
    say "Starting a Kubernetes API server, and installing SmartNat into it"
    start_control_plane
    kc version
    kc apply -k deploy/
    say "The border gets a kubeconfig with no more rights than it needs"
    ip netns exec "$namespace" env KUBECONFIG="$kubeconfig" KUBECTL="$kubectl" \
        deploy/kubeconfig.sh --server "$server" --without-kube-proxy "$work/kubeconfigs" | sed 's/^/  /'
    export KUBECONFIG=$work/kubeconfigs/smartnat.kubeconfig
    say "Starting smartnat-manager on the border, and creating the objects of docs/examples/manifests"
    start_daemon
    kc apply -f docs/examples/manifests
    kubectl_quietly wait mapping/web --for=condition=Programmed --timeout=20s >/dev/null
    kc get mappings -o wide
    kc get leases -n smartnat-system
else
    say "Starting smartnat-manager on the border with the Mappings of docs/examples/manifests"
    cp -r docs/examples/manifests "$work/manifests"
    export SNCTRLR_MANIFESTS=$work/manifests
    start_daemon
fi
on border "$manager" status

# ask WHO tcp|udp ADDRESS:PORT: what the client gets.
ask() {
    local who=$1 answer
    answer=$(on "$who" "$peer" get "$2" "$3" --timeout 1) || true
    printf '  %-9s %-3s %-19s -> %s\n' "$who" "$2" "$3" "$answer"
}

say "Clients reach pods through three addresses on two interfaces"
ask client1 tcp 203.0.113.10:80
ask client1 tcp 203.0.113.11:80
ask client2 tcp 198.51.100.10:80
ask client1 udp 203.0.113.10:53
ask client2 udp 198.51.100.10:53

say "An outsider on the same wire gets nothing: not the Mapping, not a pod, not a Service, not the box"
ask outsider tcp 203.0.113.10:80
ask outsider tcp 10.244.1.2:8080
ask outsider tcp 10.96.0.10:80
ask outsider tcp 203.0.113.10:8080

say "Why? trace tells, for the client and for the outsider"
for source in 192.0.2.10 203.0.113.66; do
    on border "$manager" trace --source $source --destination 203.0.113.10 --protocol tcp --port 80 --interface eth1 | sed 's/^/  /'
    echo
done

say "The Mapping is edited while it runs: the outsider's network is allowed too"
if [ -n "$cluster" ]; then
    kc patch mapping web --type=json -p '[{"op": "add", "path": "/spec/allowedSources/-", "value": "203.0.113.64/26"}]'
else
    sed -i 's|^\( *\)- 192.0.2.0/24.*|&\n\1- 203.0.113.64/26|' "$work/manifests/mappings.yaml"
    diff docs/examples/manifests/mappings.yaml "$work/manifests/mappings.yaml" | sed 's/^/  /' || true
fi
until_true 10 on outsider "$peer" get tcp 203.0.113.10:80 --timeout 1
ask outsider tcp 203.0.113.10:80

say "The daemon is killed; connections go on without it, and it adopts what is there when it comes back"
kill -9 "$daemon"
wait "$daemon" 2>/dev/null || true
on border "$manager" status 2>&1 | sed 's/^/  /' || true
ask client1 tcp 203.0.113.10:80
ask client2 udp 198.51.100.10:53
start_daemon
on border "$manager" status

if [ -n "$cluster" ]; then
    say "What the API server refuses at once, and what only SmartNat can know: an older Mapping holds the endpoint"
    sed 's/name: web$/name: late/; s/203.0.113.10 /203.0.113.10x/' docs/examples/manifests/mappings.yaml >"$work/late.yaml"
    kc apply -f "$work/late.yaml" 2>&1 || true
    sed 's/name: web$/name: late/; s/serviceName: late/serviceName: web/' docs/examples/manifests/mappings.yaml >"$work/late.yaml"
    kc apply -f "$work/late.yaml"
    kubectl_quietly wait mapping/late --for=condition=Accepted=false --timeout=20s >/dev/null
    kc get mappings
    say "The older one is deleted: its endpoints are free, and the younger one serves them"
    kc delete mapping web
    kubectl_quietly wait mapping/late --for=condition=Programmed --timeout=20s >/dev/null
    kc get mappings
    kc get events.events.k8s.io --sort-by=.eventTime
    ask client1 tcp 203.0.113.10:80
fi

say "That was SmartNat. All of it ran in namespaces, which are removed now."
