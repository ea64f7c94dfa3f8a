# What a box declares, as plain files: { files = { path = text; }; derivations = { path = store path of a script's derivation; }; }.
# tests/nix-eval.sh writes them out for the example box and for the image.
{ config, lib }:
let
  cfg = config.services.smartnat;
  iptables = config.networking.firewall.enable && !config.networking.nftables.enable;

  # A script is in its unit by its path alone; what it says is in its derivation.
  scriptOf =
    unit: property: name:
    let
      contexts = lib.attrNames (
        builtins.getContext config.systemd.services.${unit}.serviceConfig.${property}
      );
    in
    lib.head (lib.filter (lib.hasInfix name) contexts);
  etc = name: {
    ${name} = config.environment.etc.${name}.text;
  };
  # Units that are NixOS' own as a whole.
  own =
    lib.optional iptables "firewall.service"
    ++ lib.optionals cfg.provision.enable (
      lib.filter (name: config.systemd.units ? ${name}) [
        "smartnat-provision.service"
        "smartnat-user-data.service"
      ]
    );
in
{
  files =
    lib.mapAttrs' (name: lib.nameValuePair "systemd/system/${name}") cfg.build.units
    # What NixOS itself writes: drop-ins of these units.
    // lib.mapAttrs' (name: _: {
      name = "systemd/system/${name}.d/overrides.conf";
      value = config.systemd.units.${name}.text;
    }) (lib.filterAttrs (name: _: config.systemd.units ? ${name}) cfg.build.units)
    // lib.listToAttrs (
      map (name: lib.nameValuePair "systemd/system/${name}" config.systemd.units.${name}.text) own
    )
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

  derivations =
    lib.optionalAttrs iptables {
      "firewall-start" = scriptOf "firewall" "ExecStart" "-firewall-";
      "firewall-stop" = scriptOf "firewall" "ExecStop" "-firewall-";
    }
    // lib.optionalAttrs cfg.provision.enable {
      "smartnat-provision" = scriptOf "smartnat-provision" "ExecStart" "-smartnat-provision";
    };
}
