# IPv4 arithmetic for the module's assertions. Pure: needs no nixpkgs (builtins alone), so that it can be tested without one.
# Everything that reads text gives null where the text is not what it should be.
let
  inherit (builtins)
    bitAnd
    elemAt
    filter
    foldl'
    fromJSON
    genList
    isString
    length
    match
    split
    toString
    ;

  decimal = text: if match "0|[1-9][0-9]{0,2}" text == null then null else fromJSON text;

  pow2 = n: foldl' (product: _: product * 2) 1 (genList (_: null) n);

  # Number of addresses in a subnet of this prefix length.
  size = prefixLength: pow2 (32 - prefixLength);
in
rec {
  /**
    "192.0.2.1" as a number, 0 to 2^32-1.
  */
  parseAddress =
    text:
    let
      octets = map decimal (filter isString (split "[.]" text));
      valid = length octets == 4 && builtins.all (octet: octet != null && octet <= 255) octets;
    in
    if valid then foldl' (sum: octet: sum * 256 + octet) 0 octets else null;

  /**
    The text of a number.
  */
  formatAddress =
    number:
    let
      octet = shift: toString (bitAnd (number / shift) 255);
    in
    "${octet 16777216}.${octet 65536}.${octet 256}.${octet 1}";

  /**
    "192.0.2.1/24" as { address, prefixLength, network, broadcast }, the last two numbers of the whole subnet.
  */
  parseCidr =
    text:
    let
      parts = filter isString (split "/" text);
      address = parseAddress (elemAt parts 0);
      prefixLength = decimal (elemAt parts 1);
    in
    if length parts != 2 || address == null || prefixLength == null || prefixLength > 32 then
      null
    else
      rec {
        inherit address prefixLength;
        network = address - (address - (address / size prefixLength) * size prefixLength);
        broadcast = network + size prefixLength - 1;
      };

  /**
    Whether an address (a number) is in a subnet (of parseCidr).
  */
  contains = subnet: address: address >= subnet.network && address <= subnet.broadcast;

  /**
    Whether a subnet has a network and a broadcast address that no host may have (RFC 3021: not a /31, nor a /32).
  */
  hasBroadcast = subnet: subnet.prefixLength <= 30;

  /**
    Where the router of a subnet is by SmartNat's gateway offset (a number): 1 is the first address of the subnet, -1 the last
    one before broadcast; on a /31 the upper and the lower. null where the offset leads out of the subnet.
  */
  gateway =
    subnet: offset:
    let
      first = subnet.network;
      address = if offset > 0 then first + offset else subnet.broadcast + offset;
      lowest = if hasBroadcast subnet then first + 1 else first;
      highest = if hasBroadcast subnet then subnet.broadcast - 1 else subnet.broadcast;
    in
    if offset == 0 || address < lowest || address > highest then null else address;
}
