# The scenarios: { names; test = name: derivation; }. Each boots machines of its own: a real API server, kube-proxy, kernel and systemd.
{
  pkgs,
  smartnatModule,
  packages,
}:
let
  inherit (pkgs) lib;
  base = import ./base.nix { inherit pkgs smartnatModule packages; };
  # What is no scenario.
  others = [
    "base"
    "default"
    "firewall"
    "images"
    "ipv4"
  ];
in
{
  names = lib.subtractLists others (
    map (lib.removeSuffix ".nix") (
      lib.filter (lib.hasSuffix ".nix") (lib.attrNames (builtins.readDir ./.))
    )
  );
  test = name: import (./. + "/${name}.nix") base;
}
