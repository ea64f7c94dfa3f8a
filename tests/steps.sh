# Sourced by run.sh and quick.sh: steps, what each of them took, and the tests with the time of each.
# shellcheck shell=bash

results=()
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-always}" RUST_BACKTRACE="${RUST_BACKTRACE:-0}"

# Test targets that need no root, beside the tests in src; run.sh runs every other one as well.
unprivileged=(plan commands docs)

# step NAME COMMAND...: runs it, shows it, remembers how it ended.
step() {
    local name=$1 begin=$SECONDS outcome=ok
    shift
    say "$name"
    "$@" || { outcome=FAILED; failed=1; }
    results+=("$(printf '%-28s %-6s %4d s' "$name" "$outcome" $((SECONDS - begin)))")
}

# run_tests CARGO-ARGUMENT... -- [TEST-ARGUMENT...]: libtest tells the time of each test only where unstable options are allowed. They are
# for the test program alone, by way of cargo's runner: in cargo's own environment that would compile everything anew, and otherwise.
# No test relies on the authorities that this machine trusts, as where packages are built.
run_tests() {
    local cargo_arguments=() runner
    while [ "$1" != -- ]; do cargo_arguments+=("$1"); shift; done
    shift
    runner=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    env "CARGO_TARGET_${runner}_RUNNER=env RUSTC_BOOTSTRAP=1" SSL_CERT_FILE=/no-cert-file.crt \
        cargo test --workspace --no-fail-fast "${cargo_arguments[@]}" -- -Z unstable-options --report-time "$@" 2>&1 | tee -a "$log"
}

documentation_tests() {
    SSL_CERT_FILE=/no-cert-file.crt cargo test --workspace --no-fail-fast --doc -- "$@" 2>&1 | tee -a "$log"
}

# quick_steps [TEST-ARGUMENT...]: what needs neither root nor a machine.
quick_steps() {
    local targets=() target
    for target in "${unprivileged[@]}"; do targets+=(--test "$target"); done
    step "format" cargo fmt --all --check
    step "lints" cargo clippy --workspace --all-targets -- -D warnings
    licences() { need_pinned_tools && bash tests/licences.sh; }
    step "licences and sources" licences
    step "unit and property tests" run_tests --lib --bins --examples "${targets[@]}" -- "$@"
}

# summary: the slowest tests, every step, and how many tests passed; ends the script. None, or one left out, is no success.
summary() {
    sed -i 's/\x1b\[[0-9;]*m//g' "$log"
    say "the slowest tests"
    awk '/^ *Running .*\(/ { suite = $0; sub(/.*\//, "", suite); sub(/-[0-9a-f]*\).*/, "", suite) }
        /^test .* <[0-9.]+s>$/ { time = $NF; gsub(/[<>s]/, "", time); printf "%8.1f s  %s  %s\n", time, suite, $2 }' "$log" |
        sort -rn | sed -n 1,20p
    say "summary"
    printf '%s\n' "${results[@]}" "$(printf '%-28s %-6s %4d s' "in all" "" "$SECONDS")"
    # "test result: ok. 12 passed; 0 failed; 0 ignored; ..." of every test binary.
    awk '
        /^test result:/ { passed += $4; failed += $6; ignored += $8 }
        /^test .* \.\.\. (FAILED|ignored)/ { print "  " $0 }
        END {
            printf "%d tests passed, %d failed, %d ignored\n", passed, failed, ignored
            exit (ignored > 0 || passed == 0)
        }' "$log" || { echo "Tests were left out, or none was run: that is no success."; failed=1; }
    exit $failed
}
