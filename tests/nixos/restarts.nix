# The daemon and kube-proxy may be killed, stopped and restarted at any time: open connections go on, new ones are served.
{ scenario, ... }:
scenario {
  name = "restarts";
  script = ''
    start_cluster()
    apply(service(), endpoints("10.244.1.2", "10.244.2.2"), mapping())
    mapped_traffic_is_served("service")

    # A connection that stays open: questions come through a pipe, whose other end is kept open.
    client1.succeed("mkfifo /tmp/questions && touch /tmp/answers")
    client1.succeed("systemd-run --unit=keep sh -c 'exec /run/current-system/sw/bin/sleep infinity >/tmp/questions'")
    client1.succeed(
        f"systemd-run --unit=hold sh -c 'exec /run/current-system/sw/bin/peer hold {ALLOWED} {WAN0} 80 </tmp/questions >/tmp/answers'"
    )

    def still_open():
        before = int(client1.succeed("grep -c pod /tmp/answers || true"))
        client1.succeed("echo ? >/tmp/questions")
        client1.wait_until_succeeds(f"test $(grep -c pod /tmp/answers) -gt {before}", timeout=60)
        client1.fail("grep closed /tmp/answers")

    still_open()
    for unit in ("smartnat", "kube-proxy"):
        for blow in ("kill --signal=SIGKILL", "restart", "stop"):
            box.succeed(f"systemctl {blow} {unit}.service")
            still_open()
            assert served(client1, ALLOWED, WAN0, timeout=5)
            silent(client1, DENIED, WAN0)
        box.succeed(f"systemctl start {unit}.service")
        box.wait_for_unit(f"{unit}.service")
        if unit == "kube-proxy":
            # It puts its hooks ahead of others when it synchronises, which is what must not matter.
            box.wait_until_succeeds(
                "curl -s http://127.0.0.1:10249/metrics"
                " | grep -q 'sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} [1-9]'",
                timeout=120,
            )
            still_open()
            assert served(client1, ALLOWED, WAN0, timeout=5)
            silent(client1, DENIED, WAN0)

    # What changed meanwhile is caught up with.
    box.succeed("systemctl stop smartnat.service")
    apply(mapping(sources=("192.0.2.200",)))
    assert ask(client1, ALLOWED, WAN0)[0] == 0
    box.succeed("systemctl start smartnat.service")
    assert served(client1, DENIED, WAN0)
    silent(client1, ALLOWED, WAN0)
  '';
}
