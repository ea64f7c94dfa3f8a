# Mode direct, without kube-proxy: straight to the ready pods.
{ scenario, ... }:
scenario {
  name = "mode-direct";
  nodes.box.over = {
    services.smartnat.kubeProxy.enable = false;
  };
  script = ''
    start_cluster()
    apply(service(), endpoints("10.244.1.2", "10.244.2.2"), mapping(mode="direct"))
    mapped_traffic_is_served("direct")
    box.fail("systemctl cat kube-proxy.service")
    until("both pods answer", lambda: {served(client1, ALLOWED, WAN0).split()[0] for _ in range(16)} == {"pod1", "pod2"})

    # A pod that is gone gets nothing more; without any, allowed clients are refused at once and others hear nothing.
    apply(endpoints("10.244.2.2"))
    until("pod2 alone answers", lambda: {served(client1, ALLOWED, WAN0).split()[0] for _ in range(16)} == {"pod2"})
    apply(endpoints())
    until("allowed clients are refused", lambda: ask(client1, ALLOWED, WAN0)[0] == 3)
    silent(client1, DENIED, WAN0)
  '';
}
