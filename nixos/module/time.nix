# The clock: certificates, tokens and Leases need one that is right.
{ config, lib, ... }:
let
  cfg = config.services.smartnat;
in
{
  config = lib.mkIf cfg.enable {
    networking.timeServers = lib.mkIf (cfg.time.servers != null) cfg.time.servers;
    services.chrony.enable = lib.mkIf (cfg.time.daemon == "chrony") true;
    # chrony's module turns timesyncd off by force, also where something else than this module enables chrony.
    services.timesyncd.enable = lib.mkIf (cfg.time.daemon == "none") (lib.mkDefault false);
  };
}
