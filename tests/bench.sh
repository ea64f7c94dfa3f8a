#!/usr/bin/env bash
# What the border costs, compared in one run with the least that could do the same: one DNAT rule and one MASQUERADE. As root.
#
#   tests/bench.sh [ROUNDS]      median of ROUNDS (default 5) for each figure, the variants in turn within every round
#
# Figures: throughput of one established TCP connection with large segments and with segmentation offload off, and new UDP flows per second, for the
# plain rules, the border with 1 Mapping, and the border with 1,000.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/prepare.sh
. tests/prepare.sh
need_root
need_tools
need_commands iperf3=iperf3 ethtool=ethtool trafgen=netsniff-ng
need_cargo

rounds=${1:-5}
run=sn-bench-$$
work=$(mktemp -d)
declare -a background=()
finish() {
    local code=$?
    trap - EXIT
    for pid in "${background[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    for ns in client pod plain one many; do ip netns del "$run-$ns" 2>/dev/null || true; done
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM
on() { local ns=$1; shift; ip netns exec "$run-$ns" "$@"; }

say "Building with optimisation"
cargo build --quiet --release --bin smartnat-manager
manager=$PWD/target/release/smartnat-manager

# Three borders side by side between one client and one pod: border N has 203.0.N.1 outside and 10.0.N.2 inside.
say "Laying out the network"
for ns in client pod plain one many; do
    ip netns add "$run-$ns"
    on "$ns" ip link set dev lo up
done
n=0
for border in plain one many; do
    n=$((n + 1))
    ip link add eth1 netns "$run-$border" type veth peer name "to-$border" netns "$run-client"
    ip link add eth0 netns "$run-$border" type veth peer name "to-$border" netns "$run-pod"
    on "$border" ip link set dev eth0 up
    on "$border" ip link set dev eth1 up
    on client ip link set dev "to-$border" up
    on pod ip link set dev "to-$border" up
    on "$border" ip addr add 203.0.$n.1/24 dev eth1
    on client ip addr add 203.0.$n.254/24 dev "to-$border"
    on "$border" ip addr add 10.0.$n.2/24 dev eth0
    on pod ip addr add 10.0.$n.1/24 dev "to-$border"
    on "$border" ip route add 10.244.0.0/16 via 10.0.$n.1
done
on pod ip addr add 10.244.1.2/32 dev lo
ip netns exec "$run-pod" iperf3 -s -p 5201 >/dev/null & background+=($!)
# What arrives is counted at the pod's link; an answer would only cost time.
on pod iptables -t raw -A PREROUTING -p udp --dport 9090 -j DROP

on plain sysctl -qw net.ipv4.ip_forward=1
on plain iptables -t nat -A PREROUTING -d 203.0.1.1 -p tcp --dport 5201 -j DNAT --to-destination 10.244.1.2:5201
on plain iptables -t nat -A PREROUTING -d 203.0.1.1 -p udp --dport 9090 -j DNAT --to-destination 10.244.1.2:9090
on plain iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE

# manifests DIR ADDRESS MAPPINGS: the Mapping that is measured and as many others as make up the number.
manifests() {
    mkdir -p "$1"
    {
        cat <<YAML
apiVersion: v1
kind: Service
metadata: {name: pod, namespace: bench}
spec:
  clusterIP: 10.96.0.10
  ports: [{name: t, port: 5201, protocol: TCP}, {name: u, port: 9090, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: pod-1, namespace: bench, labels: {kubernetes.io/service-name: pod}}
addressType: IPv4
ports: [{name: t, port: 5201, protocol: TCP}, {name: u, port: 9090, protocol: UDP}]
endpoints: [{addresses: [10.244.1.2], conditions: {ready: true}}]
YAML
        for ((i = 0; i < $3; i++)); do
            cat <<YAML
---
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: m$i, namespace: bench}
spec:
  addresses: ["$2"]
  allowedSources: ["203.0.0.0/16", "192.0.2.$((i % 250))/32"]
  serviceName: pod
  mode: direct
  ports: [{port: $((5201 + i)), servicePort: t}, {port: $((9090 + i)), servicePort: u, protocol: udp}]
YAML
        done
    } >"$1/all.yaml"
}

export SNCTRLR_DEFAULT_GW_INTERFACE=eth0 SNCTRLR_INTERFACES_PATTERN=eth1 SNCTRLR_GW_ADDRESS_OFFSET=-1
manifests "$work/one" 203.0.2.1 1
manifests "$work/many" 203.0.3.1 1000
for border in one many; do
    ip netns exec "$run-$border" "$manager" --manifests "$work/$border" --state-dir "$work/state-$border" \
        >"$work/$border.log" 2>&1 &
    background+=($!)
    for ((i = 0; i < 600; i++)); do
        on "$border" "$manager" status --json 2>/dev/null | grep -q '"ready": true' && break
        read -rt 0.1 <> <(:) || true
    done
    on "$border" "$manager" status --json | grep -q '"ready": true' || die "the daemon on $border is not ready: $(tail -n 5 "$work/$border.log")"
done

offload() { # on|off: segmentation offload of every link
    local ns dev
    for ns in client pod plain one many; do
        for dev in $(on "$ns" sh -c 'ls /sys/class/net'); do
            on "$ns" ethtool -K "$dev" tso "$1" gso "$1" gro "$1" >/dev/null 2>&1 || true
        done
    done
}
tcp() { on client iperf3 -c "203.0.$1.1" -p 5201 -t 3 -O 1 -J | sed -n '/"sum_received"/,/}/s/.*"bits_per_second":[[:space:]]*\([0-9.e+]*\).*/\1/p'; }
arrived() { on pod cat "/sys/class/net/to-$1/statistics/rx_packets"; }
udp() { # first packets of new flows that arrive in a second, under more than the border can take
    local border before
    border=$(printf 'plain\none\nmany\n' | sed -n "$1p")
    on "$border" conntrack -F >/dev/null 2>&1
    cat >"$work/trafgen.cfg" <<TRAFGEN
{ eth(da=$(on "$border" cat /sys/class/net/eth1/address)),
  ipv4(saddr=203.0.$1.254, daddr=203.0.$1.1, ttl=64), udp(sp=drnd(), dp=9090), drnd(18) }
TRAFGEN
    before=$(arrived "$border")
    on client timeout 1 trafgen --dev "to-$border" --conf "$work/trafgen.cfg" --cpus 1 --no-sock-mem >/dev/null 2>&1 || true
    echo $(($(arrived "$border") - before))
}
median() { sort -g | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

measure() { # TITLE FUNCTION UNIT DIVISOR
    local n r
    say "$1"
    for n in 1 2 3; do : >"$work/figures-$n"; done
    for ((r = 0; r < rounds; r++)); do
        for n in 1 2 3; do "$2" $n >>"$work/figures-$n"; done
    done
    local plain
    plain=$(median <"$work/figures-1")
    for n in 1 2 3; do
        median <"$work/figures-$n" | awk -v name="$(printf 'plain DNAT rule\nborder, 1 Mapping\nborder, 1,000 Mappings\n' | sed -n ${n}p)" \
            -v plain="$plain" -v unit="$3" -v by="$4" '{ printf "  %-24s %10.2f %s   ratio %.2f\n", name, $1 / by, unit, $1 / plain }'
    done
}
measure "Established TCP, large segments" tcp Gbit/s 1e9
measure "New UDP flows" udp flows/s 1
offload off
measure "Established TCP, segmentation offload off" tcp Gbit/s 1e9
