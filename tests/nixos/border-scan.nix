# What the Internet reaches: mapped ports, and nothing else - ClusterIPs, NodePorts, pods, the box, kube-proxy - however it asks.
{ scenario, ... }:
scenario {
  name = "border-scan";
  nodes.client1.over = {
    # Somebody in the provider's network, who sends the cluster's addresses to the box as to a router.
    systemd.network.networks."10-net0".routes =
      map
        (destination: {
          Destination = destination;
          Gateway = "203.0.113.10";
        })
        [
          "10.0.0.0/24"
          "10.43.0.0/16"
          "10.244.0.0/16"
          "198.51.100.0/24"
        ];
  };
  script = ''
    def scan():
        # ClusterIP, pods, the control plane, the box's own address inside.
        targets = [
            (address, port)
            for address in (CLUSTER_IP, "10.244.1.2", "10.244.2.2", "10.0.0.10", "10.0.0.2")
            for port in (80, 53, 8080, 6443, 22)
        ]
        # NodePort, health, metrics, ssh, and the daemon's own.
        targets += [(address, port) for address in (WAN0, WAN0_B) for port in (30080, 10249, 10256, 8080, 22, 8081)]
        all_closed(
            client1,
            [
                (source, address, port, protocol)
                for source in (ALLOWED, "203.0.113.1")
                for protocol in ("tcp", "udp")
                for address, port in targets
            ],
        )

    start_cluster()
    apply(service(node_port=True), endpoints("10.244.1.2", "10.244.2.2"))
    box.wait_for_unit("smartnat.service")
    box.wait_for_unit("kube-proxy.service")
    # There is something to be reached from inside, or closed ports would say nothing.
    assert served(box, "10.0.0.2", CLUSTER_IP)
    scan()

    apply(mapping())
    mapped_traffic_is_served("service")
    scan()

    # The border stands by itself: without the daemon, without kube-proxy.
    box.succeed("systemctl stop smartnat.service kube-proxy.service")
    scan()
    assert served(client1, ALLOWED, WAN0)
  '';
}
