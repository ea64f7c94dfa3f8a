# Pods see clients' own addresses, and the cluster sends the answers back by the box.
{ scenario, lib, ... }:
scenario {
  name = "masquerade-off";
  nodes.box.over = {
    services.smartnat = {
      masquerade = false;
      # kube-proxy masquerades what it balances (--masquerade-all); clients' own addresses are mode direct's.
      kubeProxy.enable = lib.mkForce false;
    };
  };
  script = ''
    start_cluster()
    apply(service(), endpoints("10.244.1.2", "10.244.2.2"), mapping(mode="direct"))
    mapped_traffic_is_served("direct", seen=None)
  '';
}
