#!/usr/bin/env bash
# Builds the control plane of the tests from the `tool` lines of go.mod: kube-apiserver, kube-controller-manager, kube-proxy, kubectl and
# etcd, static, into target/kube/VERSION (CARGO_TARGET_DIR is honoured). The first build takes about nine minutes on two cores and 4 GB of
# Go's caches; what is there and current is kept.
set -uo pipefail
cd "$(dirname "$0")" || exit 1

die() { printf '%s\n' "$*" >&2; exit 1; }

command -v go >/dev/null || die "There is no Go here. tests/run.sh installs it; by hand: any Go from 1.21 on (https://go.dev/dl), it
fetches the version that go.mod asks for by itself."
# Debian's Go does not fetch another version unless told to.
export GOTOOLCHAIN="${GOTOOLCHAIN:-auto}" CGO_ENABLED=0 GOWORK=off

version=$(awk '$1 == "k8s.io/kubernetes" { print $2 }' go.mod)
minor=${version#v1.}
minor=${minor%%.*}
[ -n "$minor" ] || die "go.mod names no version of k8s.io/kubernetes"
target=${CARGO_TARGET_DIR:-$PWD/../../target}/kube/$version
mkdir -p "$target" || die "cannot make $target"
target=$(realpath "$target")

exec 9>"$target/.lock"
flock --nonblock 9 || { echo "waiting for another build of the control plane"; flock 9; }

component=k8s.io/component-base/version
flags="-s -w -X $component.gitVersion=$version -X $component.gitMajor=1 -X $component.gitMinor=$minor -X $component.gitTreeState=clean"
# What a binary was built from stands beside it.
stamp=$({ cat go.mod go.sum; echo "$flags"; } | sha256sum | cut -d' ' -f1)
mapfile -t packages < <(sed -n '/^tool (/,/^)/ s/^[[:space:]]\{1,\}//p' go.mod)

for package in "${packages[@]}"; do
    name=${package##*/}
    [ "$package" = go.etcd.io/etcd/server/v3 ] && name=etcd
    [ -x "$target/$name" ] && [ "$(cat "$target/.$name.stamp" 2>/dev/null)" = "$stamp" ] && continue
    begin=$SECONDS
    printf 'building %s of Kubernetes %s ... ' "$name" "$version"
    go build -trimpath -ldflags "$flags" -o "$target/.$name.new" "$package" ||
        die "
$package could not be built. Needed: about 4 GB of disk for Go's caches, and a way to Go's module proxy ($(go env GOPROXY))."
    mv -f "$target/.$name.new" "$target/$name" || die "cannot write $target/$name"
    echo "$stamp" >"$target/.$name.stamp"
    printf '%d s, %d MB\n' $((SECONDS - begin)) $(($(stat -c %s "$target/$name") / 1000000))
done
echo "control plane of Kubernetes $version: $target"
