#!/usr/bin/env bash
# Everything that has to hold: format, lints, licences, unit, property, kernel, end-to-end and appliance tests. As root, on Debian 12; installs what
# it needs. With arguments, only the tests whose names contain one of them (cargo test's filters).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
# shellcheck source=tests/prepare.sh
. tests/prepare.sh

need_root
need_tools
need_cargo
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-always}" RUST_BACKTRACE="${RUST_BACKTRACE:-0}"

results=()
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# step NAME COMMAND...: runs it, shows it, remembers how it ended.
step() {
    local name=$1 begin=$SECONDS outcome=ok
    shift
    say "$name"
    "$@" || { outcome=FAILED; failed=1; }
    results+=("$(printf '%-28s %-6s %4d s' "$name" "$outcome" $((SECONDS - begin)))")
}

# As where packages are built, no test relies on the authorities that this machine trusts.
tests() {
    SSL_CERT_FILE=/no-cert-file.crt cargo test --workspace --no-fail-fast "$@" 2>&1 | tee -a "$log"
}

step "format" cargo fmt --all --check
step "lints" cargo clippy --workspace --all-targets -- -D warnings
step "licences and sources" bash tests/licences.sh
nix_files() { need_nix_tools && bash tests/nix-lint.sh --self-test && bash tests/nix-lint.sh; }
step "nix files" nix_files
step "control plane" need_control_plane
step "tools for deploy/" need_deploy_tools
step "appliance machine" need_appliance
step "build" cargo test --workspace --all-targets --no-run
step "tests" tests --all-targets -- "$@"
step "documentation tests" tests --doc -- "$@"

say "summary"
printf '%s\n' "${results[@]}"
# "test result: ok. 12 passed; 0 failed; 0 ignored; ..." of every test binary.
sed 's/\x1b\[[0-9;]*m//g' "$log" | awk '
    /^test result:/ { passed += $4; failed += $6; ignored += $8 }
    /^test .* \.\.\. (FAILED|ignored)/ { print "  " $0 }
    END {
        printf "%d tests passed, %d failed, %d ignored\n", passed, failed, ignored
        exit (ignored > 0 || passed == 0)
    }' || { echo "Tests were left out, or none was run: that is no success."; failed=1; }
exit $failed
