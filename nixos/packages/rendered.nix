# What a box declares, as plain files: { files = { path = text; }; derivations = { path = store path of a script's derivation; }; }.
# tests/nix-eval.sh writes them out for the example box.
{ config, lib }:
let
  cfg = config.services.smartnat;
  # A script of the firewall is in the unit by its path alone; what it says is in its derivation.
  scriptOf =
    property:
    let
      contexts = builtins.attrNames (
        builtins.getContext config.systemd.services.firewall.serviceConfig.${property}
      );
    in
    lib.head (lib.filter (lib.hasInfix "-firewall-") contexts);
  iptables = config.networking.firewall.enable && !config.networking.nftables.enable;
  etc = name: {
    ${name} = config.environment.etc.${name}.text;
  };
in
{
  files =
    lib.mapAttrs' (name: lib.nameValuePair "systemd/system/${name}") cfg.build.units
    # What NixOS itself writes: drop-ins of these units.
    // lib.mapAttrs' (name: _: {
      name = "systemd/system/${name}.d/overrides.conf";
      value = config.systemd.units.${name}.text;
    }) (lib.filterAttrs (name: _: config.systemd.units ? ${name}) cfg.build.units)
    // lib.optionalAttrs iptables {
      "systemd/system/firewall.service" = config.systemd.units."firewall.service".text;
    }
    // lib.mapAttrs' (
      name: unit: lib.nameValuePair "systemd/network/${name}" unit.text
    ) config.systemd.network.units
    // {
      "systemd/networkd.conf" = config.environment.etc."systemd/networkd.conf".source.text;
      "modules-load.d/nixos.conf" = config.environment.etc."modules-load.d/nixos.conf".source.text;
    }
    // etc "sysctl.d/60-nixos.conf"
    // etc "smartnat/smartnat.env"
    // lib.optionalAttrs cfg.kubeProxy.enable (etc "smartnat/kube-proxy.env");

  derivations = lib.optionalAttrs iptables {
    "firewall-start" = scriptOf "ExecStart";
    "firewall-stop" = scriptOf "ExecStop";
  };
}
