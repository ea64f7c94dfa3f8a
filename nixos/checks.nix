# What nix flake check runs.
{
  pkgs,
  nixpkgs,
  crate,
  packages,
  smartnatModule,
}:
let
  inherit (pkgs) lib;
  root = ../.;
  nixFiles = lib.fileset.toSource {
    inherit root;
    fileset = lib.fileset.unions [
      (root + "/flake.nix")
      (root + "/nixos")
      (root + "/tests/nixos")
    ];
  };
  # A command that succeeds, or fails and says why.
  check =
    name: inputs: script:
    pkgs.runCommand "smartnat-${name}" { nativeBuildInputs = inputs; } ''
      ${script}
      touch $out
    '';
  # A list of complaints is known when it is evaluated; it fails when it is built, so that every other check is run, too.
  complaints =
    name: list:
    check name [ ] (
      lib.optionalString (list != [ ]) ''
        cat >&2 <<'EOF'
        ${lib.concatStringsSep "\n" list}
        EOF
        exit 1
      ''
    );

  # A derivation with nothing behind it. nix flake check keeps every value that it has seen, and of a test that would be all its machines:
  # of all tests together, more than 20 GiB. Everything is forced, so that nothing holds on to where it came from.
  bare =
    derivation:
    let
      stripped = {
        type = "derivation";
        inherit (derivation)
          name
          system
          drvPath
          outPath
          outputName
          meta
          ;
      };
    in
    builtins.deepSeq stripped stripped;

  moduleCases = import ../tests/nixos/module { inherit nixpkgs smartnatModule; };
  scenarios = import ../tests/nixos { inherit pkgs smartnatModule packages; };
in
{
  inherit (packages) smartnat-manager kube-proxy;

  image-promises = complaints "image-promises" (
    import ../tests/nixos/images.nix {
      inherit lib;
      images = {
        inherit (packages)
          ami
          qcow2
          raw-efi
          iso
          ;
      };
    }
  );
  ipv4 = complaints "ipv4" (map ({ call, ... }: call) (import ../tests/nixos/ipv4.nix));

  nix-lint =
    check "nix-lint"
      [
        pkgs.deadnix
        pkgs.nixfmt
        pkgs.statix
      ]
      ''
        cd ${nixFiles}
        find . -name '*.nix' -exec nixfmt --check {} +
        deadnix --fail .
        statix check -c nixos/statix.toml .
      '';
  shell-lint = check "shell-lint" [ pkgs.shellcheck ] "shellcheck ${./module/provision.sh}";
  option-reference = check "option-reference" [ ] ''
    diff ${../docs/nixos-options.md} ${packages.option-reference} || {
      echo "docs/nixos-options.md is not what the module declares: nix build .#option-reference, and copy the result there" >&2
      exit 1
    }
  '';
}
// lib.optionalAttrs pkgs.stdenv.hostPlatform.isx86_64 {
  # Boxes of this platform, whatever they are judged on: once is enough.
  module-cases = complaints "module-cases" moduleCases.complaints;
}
// crate.checks
// lib.listToAttrs (
  map (name: lib.nameValuePair "vm-${name}" (bare (scenarios.test name))) scenarios.names
)
