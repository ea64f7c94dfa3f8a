#!/usr/bin/env bash
# Measures what docs/performance.md says: times, processor time, memory and packets at scale. As root, on Debian 12;
# installs what it needs.
#
#   tests/bench/run.sh                                                everything: a table, and plots in target/bench
#   tests/bench/run.sh --docs                                         the same, written into docs/performance.md too
#   tests/bench/run.sh --list                                         the names of all rows
#   tests/bench/run.sh --only start-files --rounds 1 --size 1000x10   one row, quickly
#   tests/bench/run.sh --previous REVISION|PROGRAM ...                the version that is upgraded from
#   tests/bench/run.sh --program PROGRAM ...                          another daemon than that of this source
#   tests/bench/run.sh --out DIR ...                                  where table and plots go
#   tests/bench/run.sh --help                                         all options
#
# Everything happens in network namespaces and control groups of its own, which are removed at the end, also after a
# failure.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/../.."
# shellcheck source=tests/prepare.sh
. tests/prepare.sh

# The last version that wrote each table in one block.
previous=6fd3a85
program='' out='' only='' list='' docs=''
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
        --previous | --program | --out | --only)
            [ $# -gt 1 ] || die "$1 takes a value"
            declare "${1#--}=$2"
            shift
            ;;
        --docs) docs=yes ;;
        --list | --help | -h) list=yes; arguments+=("$1") ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
# wanted ROW...: whether one of these rows is to be measured.
wanted() {
    local row
    [ -n "$only" ] || return 0
    for row in "$@"; do [[ ",$only," == *",$row,"* ]] && return 0; done
    return 1
}
# Paths on the command line are relative to where it was typed.
absolute() { case $1 in /*) echo "$1" ;; *) echo "$here/$1" ;; esac; }

need_root
need_tools
need_cargo
target=${CARGO_TARGET_DIR:-$PWD/target}
say "Building with optimisation (some minutes the first time)"
cargo build --release --package smartnat-manager --bin smartnat-manager --package bench --bin bench
bench=$target/release/bench
if [ -n "$program" ]; then program=$(absolute "$program"); else program=$target/release/smartnat-manager; fi
arguments+=(--program "$program")
[ -z "$only" ] || arguments+=(--only "$only")
[ -z "$list" ] || exec "$bench" "${arguments[@]}"

if wanted growth; then need_commands gnuplot=gnuplot-nox; fi
if wanted packets; then need_commands iperf3=iperf3 ethtool=ethtool trafgen=netsniff-ng; fi
if wanted start-api status; then need_control_plane; fi
if wanted again; then
    if [ -x "$(absolute "$previous")" ] && [ -f "$(absolute "$previous")" ]; then
        previous=$(absolute "$previous")
    else
        revision=$(git rev-parse --verify --quiet "$previous^{commit}") ||
            die "There is neither a revision nor a program $previous: name the version to upgrade from,
--previous REVISION|PROGRAM."
        previous=$target/previous/$revision/smartnat-manager
        if [ ! -x "$previous" ]; then
            say "Building the version before, $revision (some minutes, once)"
            mkdir -p "$target/previous/source" "${previous%/*}"
            rm -rf "$target/previous/source"/*
            git archive "$revision" | tar -x -C "$target/previous/source"
            (cd "$target/previous/source" && CARGO_TARGET_DIR=$target/previous/target \
                cargo build --release --package smartnat-manager --bin smartnat-manager)
            cp "$target/previous/target/release/smartnat-manager" "$previous"
        fi
    fi
    arguments+=(--previous "$previous")
fi
if [ -n "$out" ]; then out=$(absolute "$out"); else out=$target/bench; fi
mkdir -p "$out"
arguments+=(--out "$out" --revision "$(git describe --always --dirty 2>/dev/null || echo 'an unknown revision')")

# Control groups of a run that was killed: what they held is gone with its namespaces.
# shellcheck disable=SC2317 # called by the trap
finish() {
    local code=$? root dir pid
    trap - EXIT
    while read -r _ root kind _; do
        [ "$kind" = cgroup2 ] || continue
        for dir in "$root"/sn-bench-*; do
            [ -d "$dir" ] || continue
            pid=${dir##*/sn-bench-}
            [ -d "/proc/${pid%%-*}" ] || rmdir "$dir" 2>/dev/null || true
        done
    done </proc/self/mounts
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

say "Measuring"
code=0
"$bench" "${arguments[@]}" || code=$?
if [ -n "$docs" ] && [ -f "$out/table.md" ]; then
    say "Writing docs/performance.md"
    mkdir -p docs/performance
    {
        sed '/^<!-- figures/q' docs/performance.md
        echo
        cat "$out/table.md"
        for plot in start memory change; do
            [ -f "$out/$plot.svg" ] || continue
            cp "$out/$plot.svg" docs/performance/
            printf '\n![%s by number of endpoints](performance/%s.svg)\n' "$plot" "$plot"
        done
    } >"$out/performance.md"
    cp "$out/performance.md" docs/performance.md
fi
exit "$code"
