# Mode service over two external interfaces: kube-proxy's IPVS spreads over the pods, and answers leave by the interface of the question.
{ scenario, ... }:
scenario {
  name = "mode-service";
  script = ''
    start_cluster()
    apply(service(), endpoints("10.244.1.2", "10.244.2.2"), mapping())
    mapped_traffic_is_served("service")

    programmed()
    shown = json.loads(kubectl("get mapping web -o json"))["status"]
    assert shown["conditions"], shown

    # Both pods are reached.
    until("both pods answer", lambda: {served(client1, ALLOWED, WAN0).split()[0] for _ in range(8)} == {"pod1", "pod2"})

    # A change is followed, and the last one that is allowed is cut off with its Mapping.
    apply(mapping(sources=("192.0.2.200",)))
    assert served(client1, DENIED, WAN0)
    silent(client1, ALLOWED, WAN0)
    kubectl("delete mapping web --wait=true --timeout=60s")
    until("nothing is served", lambda: ask(client1, DENIED, WAN0)[0] != 0)
    box.succeed("smartnat-manager check || test $? -eq 3")
    box.succeed("smartnat-manager plan --diff")
  '';
}
