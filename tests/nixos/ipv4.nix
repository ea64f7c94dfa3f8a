# nixos/lib/ipv4.nix by examples. Needs no nixpkgs: nix-instantiate --eval --strict tests/nixos/ipv4.nix gives the examples that fail.
let
  ipv4 = import ../../nixos/lib/ipv4.nix;
  gateway =
    subnet: offset:
    let
      address = ipv4.gateway (ipv4.parseCidr subnet) offset;
    in
    if address == null then null else ipv4.formatAddress address;
  network =
    text:
    let
      subnet = ipv4.parseCidr text;
    in
    if subnet == null then
      null
    else
      "${ipv4.formatAddress subnet.network} ${ipv4.formatAddress subnet.broadcast}";
  example = call: is: should: {
    inherit call is should;
  };
  examples = [
    (example "0.0.0.0" (ipv4.parseAddress "0.0.0.0") 0)
    (example "255.255.255.255" (ipv4.parseAddress "255.255.255.255") 4294967295)
    (example "192.0.2.1" (ipv4.parseAddress "192.0.2.1") 3221225985)
    (example "an octet above 255" (ipv4.parseAddress "192.0.2.256") null)
    (example "three octets" (ipv4.parseAddress "192.0.2") null)
    (example "five octets" (ipv4.parseAddress "192.0.2.1.1") null)
    (example "an empty octet" (ipv4.parseAddress "192..2.1") null)
    (example "an octal octet" (ipv4.parseAddress "192.0.2.010") null)
    (example "a name" (ipv4.parseAddress "router") null)
    (example "a number, and back" (ipv4.formatAddress 3221225985) "192.0.2.1")
    (example "/24" (network "192.0.2.77/24") "192.0.2.0 192.0.2.255")
    (example "/23" (network "10.22.67.4/23") "10.22.66.0 10.22.67.255")
    (example "/0" (network "10.0.0.1/0") "0.0.0.0 255.255.255.255")
    (example "/31" (network "192.0.2.1/31") "192.0.2.0 192.0.2.1")
    (example "/32" (network "192.0.2.1/32") "192.0.2.1 192.0.2.1")
    (example "/33" (network "192.0.2.1/33") null)
    (example "no length" (network "192.0.2.1") null)
    (example "two lengths" (network "192.0.2.1/24/24") null)
    (example "first" (gateway "203.0.113.10/24" 1) "203.0.113.1")
    (example "last" (gateway "203.0.113.10/24" (-1)) "203.0.113.254")
    (example "254th" (gateway "203.0.113.10/24" 254) "203.0.113.254")
    (example "broadcast" (gateway "203.0.113.10/24" 255) null)
    (example "the subnet itself" (gateway "203.0.113.10/24" (-255)) null)
    (example "no offset" (gateway "203.0.113.10/24" 0) null)
    (example "upper of two" (gateway "192.0.2.0/31" 1) "192.0.2.1")
    (example "lower of two" (gateway "192.0.2.1/31" (-1)) "192.0.2.0")
    (example "beyond two" (gateway "192.0.2.1/31" 2) null)
    (example "alone" (gateway "192.0.2.1/32" 1) null)
  ];
in
builtins.filter ({ is, should, ... }: is != should) examples
