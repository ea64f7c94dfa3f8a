#!/usr/bin/env bash
# What needs neither root nor a machine: format, lints, licences, unit and property tests; minutes the first time, then one or two. With
# arguments, only the tests whose names contain one of them. tests/run.sh runs all of this, and everything else.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
# shellcheck source=tests/prepare.sh
. tests/prepare.sh
# shellcheck source=tests/steps.sh
. tests/steps.sh

need_cargo
# Root alone can ask the kernel what it has.
[ "$(id -u)" -eq 0 ] || { left_out=this_kernel_has; echo "Left to tests/run.sh, as they need root: tests of src named $left_out..."; }
quick_steps ${left_out:+--skip "$left_out"} "$@"
summary
