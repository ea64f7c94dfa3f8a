# Connections that a mapped pod begins leave with the address of its Mapping, by that address's interface; those of others do not.
{ scenario, ... }:
scenario {
  name = "pod-egress-snat";
  nodes = {
    box.over = {
      services.smartnat.snat = true;
    };
    # Somebody outside who is asked.
    client1.over =
      { pkgs, ... }:
      {
        systemd.services.outside = {
          wantedBy = [ "multi-user.target" ];
          serviceConfig = {
            ExecStart = "${pkgs.python3Minimal}/bin/python3 ${./peer.py} serve outside 192.0.2.10 9000";
            Restart = "always";
            RestartSec = 1;
          };
        };
      };
  };
  script = ''
    start_cluster()
    client1.wait_for_open_port(9000, ALLOWED)
    apply(service(), endpoints("10.244.1.2"), mapping())
    assert served(client1, ALLOWED, WAN0).startswith("pod1 ")
    for protocol in ("tcp", "udp"):
        assert served(pod1, "10.244.1.2", ALLOWED, 9000, protocol) == f"outside {WAN0}"
        # pod2 is behind no Mapping.
        closed(pod2, "10.244.2.2", ALLOWED, 9000, protocol)
  '';
}
