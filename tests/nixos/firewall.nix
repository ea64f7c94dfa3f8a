{
  scenario,
  pkgs,
  lib,
  ...
}:
{ nftables }:
scenario {
  name = "firewall-${if nftables then "nftables" else "iptables"}";
  nodes.box.over = {
    networking.nftables.enable = nftables;
    networking.firewall = {
      enable = true;
      filterForward = nftables;
      interfaces.lan0.allowedTCPPorts = [ 9001 ];
    };
    # Two services of the box itself: one that the firewall opens towards the cluster, one that it opens nowhere.
    systemd.services = lib.genAttrs [ "own-9001" "own-9002" ] (name: {
      wantedBy = [ "multi-user.target" ];
      serviceConfig.ExecStart = "${pkgs.python3Minimal}/bin/python3 ${./peer.py} serve own 0.0.0.0 ${lib.removePrefix "own-" name}";
    });
  };
  script = ''
    start_cluster()
    apply(service(), endpoints("10.244.1.2", "10.244.2.2"), mapping())
    mapped_traffic_is_served("service")

    def own_ports():
        assert served(cp, "10.0.0.10", "10.0.0.2", 9001) == "own 10.0.0.10"
        closed(cp, "10.0.0.10", "10.0.0.2", 9002)
        for port in (9001, 9002):
            closed(client1, ALLOWED, WAN0, port)

    own_ports()
    # A reload of the firewall takes nothing away that is SmartNat's.
    box.succeed("systemctl reload-or-restart ${if nftables then "nftables" else "firewall"}.service")
    mapped_traffic_is_served("service")
    own_ports()
  '';
}
