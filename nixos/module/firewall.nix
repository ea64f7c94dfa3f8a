# The host firewall lets mapped traffic pass. The first packet of a mapped connection reaches IPVS through INPUT, where the box's own
# firewall refuses what it does not know; the border has decided before.
{ config, lib, ... }:
let
  cfg = config.services.smartnat;
in
{
  config = lib.mkIf cfg.enable {
    networking.firewall = lib.mkMerge [
      # SmartNat's border and policy routing decide by where a client is expected; the main table does not know.
      { checkReversePath = lib.mkDefault false; }
      (
        # Each backend ignores, or refuses, what is meant for the other.
        if config.networking.nftables.enable then
          {
            extraInputRules = ''
              ct status dnat accept comment "smartnat: mapped traffic"
            '';
            extraForwardRules = ''
              ct status dnat accept comment "smartnat: mapped traffic"
            '';
          }
        else
          {
            extraCommands = ''
              iptables -w -A nixos-fw -m conntrack --ctstate DNAT -j nixos-fw-accept -m comment --comment "smartnat: mapped traffic"
            '';
          }
      )
    ];
  };
}
