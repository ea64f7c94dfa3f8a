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

# name PACKAGE: that of its binary here; Go's own is the last word of the path that is no version.
name() { case $1 in */etcd/server/*) echo etcd ;; *) echo "${1##*/}" ;; esac; }

missing=()
for package in "${packages[@]}"; do
    name=$(name "$package")
    [ -x "$target/$name" ] && [ "$(cat "$target/.$name.stamp" 2>/dev/null)" = "$stamp" ] || missing+=("$package")
done

# All in one call: while one is linked, by one processor, others are compiled. Go names each package that it has compiled; every hundredth
# is shown, and everything that is no such name.
if [ ${#missing[@]} -gt 0 ]; then
    printf 'building for Kubernetes %s, minutes the first time: %s\n' "$version" "${missing[*]}"
    rm -rf "$target/.new" && mkdir "$target/.new" || die "cannot write in $target"
    go build -v -trimpath -ldflags "$flags" -o "$target/.new/" "${missing[@]}" 2>&1 |
        awk '/^[^ :#]+$/ { if (++count % 100 == 0) { print "  " count " packages: " $0; fflush() } next } { print; fflush() }' ||
        die "
That could not be built. Needed: about 4 GB of disk for Go's caches, and a way to Go's module proxy ($(go env GOPROXY))."
    [ ! -e "$target/.new/server" ] || mv "$target/.new/server" "$target/.new/etcd"
    for package in "${missing[@]}"; do
        name=$(name "$package")
        mv -f "$target/.new/$name" "$target/$name" || die "cannot write $target/$name"
        echo "$stamp" >"$target/.$name.stamp"
    done
    rm -rf "$target/.new"
    echo "built in $SECONDS s"
fi
echo "control plane of Kubernetes $version: $target"
