#!/usr/bin/env bash
# Everything that has to hold: format, lints, licences, unit, property, kernel, end-to-end and appliance tests. As root, on Debian 12;
# installs what it needs. With arguments, only the tests whose names contain one of them (cargo test's filters).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
# shellcheck source=tests/prepare.sh
. tests/prepare.sh
# shellcheck source=tests/steps.sh
. tests/steps.sh

need_root
step "tools" need_tools
step "Rust" need_cargo
quick_steps "$@"
nix_files() { need_nix_tools && bash tests/nix-lint.sh --self-test && bash tests/nix-lint.sh; }
step "nix files" nix_files
step "control plane" need_control_plane
step "tools for deploy/" need_deploy_tools
step "appliance machine" need_appliance
step "build" cargo test --workspace --all-targets --no-run

# Every test target that quick_steps does not run, the machine last: it is the slowest. Tests of beds and clusters wait as much as they
# compute: twice as many at once as there are processors. Machines want a processor each.
mapfile -t targets < <(cargo metadata --no-deps --format-version 1 |
    jq -r '.packages[].targets[] | select(.kind == ["test"]) | .name' | grep -vxF "$(printf '%s\n' "${unprivileged[@]}")" |
    sort | awk '$0 == "appliance" { last = $0; next } { print } END { print last }')
[ "${#targets[@]}" -gt 1 ] || die "cargo metadata names no test targets"
for target in "${targets[@]}"; do
    case $target in
        e2e | cluster) threads=$(($(nproc) * 2)) ;;
        *) threads= ;;
    esac
    step "tests: $target" run_tests --test "$target" -- ${threads:+"--test-threads=$threads"} "$@"
done
step "documentation tests" documentation_tests "$@"
summary
