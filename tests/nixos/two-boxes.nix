# Two boxes on one cluster, each with addresses of its own: one Mapping is served by both, and outlives one of them.
{
  scenario,
  box,
  lib,
  ...
}:
scenario {
  name = "two-boxes";
  nodes = {
    box.over = {
      services.smartnat.instanceName = "border-1";
    };
    box2 = {
      imports = [
        (box {
          address = "10.0.0.3";
          external.wan0 = 2;
        })
      ];
      services.smartnat = {
        instanceName = "border-2";
        interfaces.external = lib.mkForce {
          wan0 = {
            prefix = "203.0.113.0/24";
            addresses = [ "203.0.113.20" ];
          };
        };
      };
    };
  };
  script = ''
    start_cluster()
    apply(service(), endpoints("10.244.1.2", "10.244.2.2"), mapping(addresses=(WAN0, WAN1, "203.0.113.20")))
    mapped_traffic_is_served("service")
    assert served(client1, ALLOWED, "203.0.113.20").split()[1] == "10.0.0.3"
    silent(client1, DENIED, "203.0.113.20")

    # Both say so in the status.
    until(
        "both instances are in the status",
        lambda: all(name in kubectl("get mapping web -o json") for name in ("border-1", "border-2")),
    )

    # One goes away: the other serves on.
    box2.shutdown()
    assert served(client1, ALLOWED, WAN0, timeout=5)
    closed(client1, ALLOWED, "203.0.113.20", 80)
    box2.start()
    assert served(client1, ALLOWED, "203.0.113.20")
  '';
}
