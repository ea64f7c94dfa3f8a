# A box that boots again serves again by itself; while it boots nothing is open, and a cluster that is away does not hold it up.
{ scenario, ... }:
scenario {
  name = "reboot";
  script = ''
    start_cluster()
    apply(service(node_port=True), endpoints("10.244.1.2", "10.244.2.2"), mapping())
    mapped_traffic_is_served("service")

    box.shutdown()
    box.start()
    mapped_traffic_is_served("service")
    closed(client1, ALLOWED, WAN0, 30080)
    # The border was closed before any interface was brought up.
    order = box.succeed(
        "systemctl show --property=ActiveEnterTimestampMonotonic --value smartnat-border.service systemd-networkd.service"
    ).split()
    assert int(order[0]) < int(order[1]), order

    # Power cut, and no control plane: the box comes up closed, and serves as soon as the cluster is there.
    cp.shutdown()
    box.crash()
    box.start()
    box.wait_for_unit("smartnat.service")
    closed(client1, ALLOWED, WAN0, 80)
    closed(client1, ALLOWED, WAN0, 30080)
    cp.start()
    cp.wait_until_succeeds("KUBECONFIG=/etc/kubeconfig kubectl get --raw /readyz", timeout=180)
    mapped_traffic_is_served("service")
  '';
}
