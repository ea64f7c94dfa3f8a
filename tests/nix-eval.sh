#!/usr/bin/env bash
# Evaluates everything that Nix declares here, with local copies of nixpkgs and crane: no network, no builds.
#
#   tests/nix-eval.sh [--update] NIXPKGS CRANE
#
# nix flake check --no-build for both systems, the derivation of every package, image and VM test, the cases of the module; then the option
# reference (docs/nixos-options.md), the example box and the image as plain files (tests/appliance/rendered), which must be as they stand here, or,
# with --update, are written. What they were made from is kept in tests/nixos/evaluated.sha256, by which tests/run.sh sees without Nix that
# they are not older than that. Needs nix 2.24 or newer (apt-get install nix-bin, in Debian 13), git and jq.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

die() { printf '%s\n' "$*" >&2; exit 1; }
say() { printf '\n== %s\n' "$*"; }

update=
if [[ ${1-} == --update ]]; then update=yes; shift; fi
(($# == 2)) || die "usage: tests/nix-eval.sh [--update] NIXPKGS CRANE: two directories with their sources"
nixpkgs=$(realpath -e "$1") || die "$1: no such directory"
crane=$(realpath -e "$2") || die "$2: no such directory"
[[ -e $nixpkgs/nixos/lib/eval-config.nix ]] || die "$nixpkgs holds no nixpkgs: nixos/lib/eval-config.nix is missing"
[[ -e $crane/lib/default.nix ]] || die "$crane holds no crane: lib/default.nix is missing"
for tool in nix git jq; do
    command -v "$tool" >/dev/null || die "$tool is missing; on Debian 13: apt-get install nix-bin git jq"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export NIX_CONFIG="experimental-features = nix-command flakes
warn-dirty = false
substituters =
eval-cache = false"
# nixpkgs is far larger than what is evaluated of it: not copied, but read where it is.
evaluate() {
    nix eval --impure --show-trace --json --expr "
let
  lib = import $nixpkgs/lib;
  nixpkgs = {
    lib = lib // { nixosSystem = arguments: import $nixpkgs/nixos/lib/eval-config.nix ({ system = null; inherit lib; } // arguments); };
    legacyPackages = lib.genAttrs [ \"x86_64-linux\" \"aarch64-linux\" ] (system: import $nixpkgs { inherit system; });
    outPath = $nixpkgs;
  };
  crane.mkLib = pkgs: import $crane { inherit pkgs; };
  flake = import $root/nixos { inputs = { inherit nixpkgs crane; self = flake; }; };
in
$1" 2>"$work/errors" || { cat "$work/errors" >&2; return 1; }
}

say "cases of the module, and arithmetic"
evaluate "{ inherit (import $root/tests/nixos/module { inherit nixpkgs; smartnatModule = flake.nixosModules.default; }) complaints count; ipv4 = import $root/tests/nixos/ipv4.nix; }" >"$work/cases"
jq -r '.complaints[], (.ipv4[] | "tests/nixos/ipv4.nix: \(.)")' "$work/cases" | tee "$work/complaints"
[[ ! -s $work/complaints ]] || die "the module does not do what its cases say (tests/nixos/module/cases.nix)"
jq -r '"\(.count) cases"' "$work/cases"

say "promises of the images"
for system in x86_64-linux aarch64-linux; do
    evaluate "import $root/tests/nixos/images.nix { inherit lib; images = { inherit (flake.packages.$system) ami qcow2 raw-efi iso; }; }" |
        jq -r --arg system "$system" '.[] | "\($system) \(.)"' | tee "$work/complaints"
    [[ ! -s $work/complaints ]] || die "the images are not what they should be (tests/nixos/images.nix)"
done

say "the template, as its user would have it"
evaluate "
  let
    template = import $root/nixos/template/flake.nix;
    outputs = template.outputs { inherit nixpkgs; smartnat = flake; self = outputs; };
    box = outputs.nixosConfigurations.border-1.extendModules { modules = [ {
      boot.loader.grub.enable = false;
      fileSystems.\"/\" = { device = \"/dev/disk/by-label/nixos\"; fsType = \"ext4\"; };
    } ]; };
  in [ box.config.system.build.toplevel.drvPath outputs.packages.x86_64-linux.qcow2.drvPath ]" | jq -r '.[]'

say "option reference"
evaluate "(import $root/nixos/packages/option-reference.nix { pkgs = nixpkgs.legacyPackages.x86_64-linux; }).text" | jq -j . >"$work/options.md"

say "the example box and the image as plain files"
# render NAME CONFIG: what this machine declares, into $work/rendered/NAME.
render() {
    local tree=$work/rendered/$1 path name derivation
    evaluate "import $root/nixos/packages/rendered.nix { inherit lib; config = $2; }" >"$work/rendered.json"
    while IFS= read -r path; do
        mkdir -p "$tree/$(dirname "$path")"
        jq -j --arg path "$path" '.files[$path]' "$work/rendered.json" >"$tree/$path"
    done < <(jq -r '.files | keys[]' "$work/rendered.json")
    while IFS=$'\t' read -r name derivation; do
        mkdir -p "$tree/bin"
        nix derivation show "$derivation" | jq -j '(.derivations // .) | to_entries[0].value.env.text' >"$tree/bin/$name"
        [[ -s $tree/bin/$name ]] || die "$derivation holds no text"
    done < <(jq -r '.derivations | to_entries[] | "\(.key)\t\(.value)"' "$work/rendered.json")
}
render border-1 flake.nixosConfigurations.border-1.config
render image flake.packages.x86_64-linux.qcow2.passthru.config
# Hashes and versions of the store differ between any two nixpkgs, and say nothing.
find "$work/rendered" -type f -exec sed -i -E 's#/nix/store/[0-9a-z]{32}-([A-Za-z0-9_.+-]*[A-Za-z0-9])#/nix/store/\1#g; s#(/nix/store/[A-Za-z][A-Za-z+_-]*)-[0-9][A-Za-z0-9._+-]*#\1#g' {} +

sums() { git ls-files -z --cached --others --exclude-standard nixos deploy/systemd deploy/sysctl.d deploy/modules-load.d | xargs -0 sha256sum; }
if [[ -n $update ]]; then
    rm -rf tests/appliance/rendered
    cp -r "$work/rendered" tests/appliance/rendered
    cp "$work/options.md" docs/nixos-options.md
    sums >tests/nixos/evaluated.sha256
    echo "written"
else
    diff -r tests/appliance/rendered "$work/rendered" || die "tests/appliance/rendered is not what the example box and the image declare: tests/nix-eval.sh --update $1 $2"
    diff docs/nixos-options.md "$work/options.md" || die "docs/nixos-options.md is not what the module declares: tests/nix-eval.sh --update $1 $2"
    diff tests/nixos/evaluated.sha256 <(sums) || die "tests/nixos/evaluated.sha256 is of other files: tests/nix-eval.sh --update $1 $2"
    echo "as they stand here"
fi

say "packages, images and boxes"
for system in x86_64-linux aarch64-linux; do
    evaluate "lib.mapAttrs (_: package: package.drvPath) flake.packages.$system" |
        jq -r --arg of "packages.$system" 'to_entries[] | "\($of).\(.key) \(.value)"' | tee -a "$work/derivations"
done
evaluate 'lib.mapAttrs (_: box: box.config.system.build.toplevel.drvPath) flake.nixosConfigurations' |
    jq -r 'to_entries[] | "nixosConfigurations.\(.key) \(.value)"' | tee -a "$work/derivations"
# One that is lost would not be missed by a check of the rest.
for name in packages.{x86_64,aarch64}-linux.{smartnat-manager,kube-proxy,ami,qcow2,raw-efi,iso,oci-image} nixosConfigurations.border-1; do
    grep -q "^$name /nix/store/.*\.drv$" "$work/derivations" || die "the flake has no $name"
done
# git's index decides what a flake sees; nothing is copied but the repository, and the two inputs once.
for system in x86_64-linux aarch64-linux; do
    say "nix flake check, $system: the derivation of every check, too"
    nix flake check --no-build --option system "$system" --no-write-lock-file \
        --override-input nixpkgs "path:$nixpkgs" --override-input crane "path:$crane" "git+file://$root"
done
say "all of it evaluates"
