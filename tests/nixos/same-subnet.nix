# Three interfaces in one subnet, as a provider's network gives them: the gateway interface and two external ones.
{
  scenario,
  box,
  client,
  lib,
  ...
}:
let
  # The driver gives all cards of a machine on one network the same hardware address, so these are put in by hand.
  cards = [
    "up0"
    "wan0"
    "wan1"
  ];
  mac =
    name: "52:54:00:66:66:0${toString (lib.lists.findFirstIndex (card: card == name) null cards)}";
  inSubnet = name: address: {
    mac = mac name;
    prefix = "10.22.66.0/23";
    addresses = [ address ];
  };
in
scenario {
  name = "same-subnet";
  nodes = {
    box = {
      imports = [
        (box { external = { }; })
      ];
      virtualisation.qemu.options = lib.concatMap (name: [
        "-device virtio-net-pci,netdev=${name},mac=${mac name}"
        ''-netdev vde,id=${name},sock="$QEMU_VDE_SOCKET_2"''
      ]) cards;
      services.smartnat = {
        gatewayOffset = -1;
        interfaces = {
          # The way out is in the very subnet of the external interfaces; the cluster has an interface of its own.
          gateway = lib.mkForce {
            name = "up0";
            mac = mac "up0";
            addresses = [ "10.22.66.40/23" ];
            router = "10.22.67.254";
          };
          cluster = {
            name = "lan0";
            addresses = [ "10.0.0.2/24" ];
            routes = [
              {
                destination = "10.244.1.0/24";
                gateway = "10.0.0.21";
              }
              {
                destination = "10.244.2.0/24";
                gateway = "10.0.0.22";
              }
            ];
          };
          external = {
            wan0 = inSubnet "wan0" "10.22.66.41";
            wan1 = inSubnet "wan1" "10.22.66.42";
          };
        };
      };
    };
    client1 = client {
      vlan = 2;
      router = "10.22.67.254";
      mask = 23;
      addresses = [
        "192.0.2.10"
        "192.0.2.200"
      ];
    };
    client2 = null;
  };
  script = ''
    start_cluster()
    apply(service(), endpoints("10.244.1.2", "10.244.2.2"), mapping(addresses=("10.22.66.41", "10.22.66.42")))
    for address in ("10.22.66.41", "10.22.66.42"):
        for port, protocol in ((80, "tcp"), (53, "udp")):
            assert served(client1, ALLOWED, address, port, protocol).split()[1] == "10.0.0.2"
            silent(client1, DENIED, address, port, protocol)
            # From the subnet itself, too, where the way back is on the link.
            silent(client1, "10.22.67.254", address, port, protocol)
    closed(client1, ALLOWED, "10.22.66.40", 80)

    # Each address is answered for by its own interface: the neighbours that the client learned differ.
    def neighbour(address):
        return json.loads(client1.succeed(f"ip -json neigh show {address}"))[0]["lladdr"]

    def hardware(name):
        return json.loads(box.succeed(f"ip -json link show {name}"))[0]["address"]

    assert neighbour("10.22.66.41") == hardware("wan0")
    assert neighbour("10.22.66.42") == hardware("wan1")
  '';
}
