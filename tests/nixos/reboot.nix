# A box that boots again serves again by itself; while it boots nothing is open, and a cluster that is away does not hold it up.
{ scenario, ... }:
scenario {
  name = "reboot";
  script = ''
    start_cluster()
    apply(service(node_port=True), endpoints("10.244.1.2", "10.244.2.2"), mapping())
    mapped_traffic_is_served("service")

    # Somebody outside who tries all the while, from the last moment of one boot to the first of the next.
    tries = (
        f"while :; do for port in 22 30080; do /run/current-system/sw/bin/peer ask tcp {ALLOWED} {WAN0} $port"
        " && echo $port >>/tmp/open; echo >>/tmp/tries; done; done"
    )
    client1.succeed(f"systemd-run --expand-environment=no --unit=tries /run/current-system/sw/bin/sh -c '{tries}'")

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
    assert int(client1.succeed("grep -c ^ /tmp/tries")) > 10
    client1.fail("grep . /tmp/open")
  '';
}
