#!/usr/bin/env bash
# Licences and origins of all dependencies, as deny.toml allows them. Uses cargo-deny, installed once into cargo's own directory.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

version=0.20.2
if ! cargo deny --version >/dev/null 2>&1; then
    echo "installing cargo-deny $version, once: some minutes"
    cargo install --quiet --locked "cargo-deny@$version" || {
        echo "cargo-deny could not be installed; install it by hand: cargo install --locked cargo-deny@$version" >&2
        exit 1
    }
fi
exec cargo deny --all-features check --hide-inclusion-graph licenses bans sources
