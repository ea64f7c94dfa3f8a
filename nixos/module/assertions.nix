# What would not work, said before it is built: each message names the option and the remedy.
{ config, lib, ... }:
let
  cfg = config.services.smartnat;
  inherit (cfg.interfaces) gateway cluster external;
  ipv4 = import ../lib/ipv4.nix;

  option = path: "services.smartnat.${path}";
  check = assertion: message: { inherit assertion message; };

  # Every interface with the option that declares it.
  declared = [
    {
      path = "interfaces.gateway";
      kind = "the default gateway interface";
      value = gateway;
    }
  ]
  ++ lib.optional (cluster != null) {
    path = "interfaces.cluster";
    kind = "the cluster interface";
    value = cluster;
  }
  ++ lib.mapAttrsToList (name: value: {
    path = "interfaces.external.${name}";
    kind = "an external interface";
    value = value // {
      inherit name;
    };
  }) external;

  duplicates =
    what: describe:
    let
      groups = lib.groupBy (interface: lib.toLower interface.value.${what}) (
        lib.filter (interface: interface.value.${what} != null) declared
      );
    in
    lib.mapAttrsToList (
      value: interfaces:
      check (lib.length interfaces == 1)
        "${
          lib.concatMapStringsSep " and " (interface: option interface.path) interfaces
        }: ${describe} ${value} is ${
          lib.concatMapStringsSep " and " (interface: interface.kind) interfaces
        } at once. An interface is of one kind; give each its own ${describe}."
    ) groups;

  oneSelector = map (
    { path, value, ... }:
    check (
      value.mac == null || value.path == null
    ) "${option path}: found by both mac and path. Set one of them, the other null."
  ) declared;

  wellFormed =
    path: address:
    check (ipv4.parseCidr address != null)
      "${option path}: ${address} is no IPv4 address with prefix length. Each of the four numbers is at most 255, the length at most 32.";

  # An address of its own subnet that a host can have.
  hostAddress =
    path: address:
    let
      subnet = ipv4.parseCidr address;
    in
    [
      (wellFormed path address)
      (check
        (
          subnet == null
          || !ipv4.hasBroadcast subnet
          || (subnet.address != subnet.network && subnet.address != subnet.broadcast)
        )
        "${option path}: ${address} is the network or broadcast address of its subnet. Take one between ${
          ipv4.formatAddress (subnet.network + 1)
        } and ${ipv4.formatAddress (subnet.broadcast - 1)}."
      )
    ];

  insideAddresses = lib.concatMap (
    { path, value, ... }:
    lib.optionals (value ? routes) (
      lib.concatMap (hostAddress "${path}.addresses") value.addresses
      ++ map (route: wellFormed "${path}.routes" route.destination) value.routes
      ++ map (
        router:
        check (ipv4.parseAddress router != null)
          "${option path}: the router ${router} is no IPv4 address. Each of the four numbers is at most 255."
      ) (map (route: route.gateway) value.routes ++ lib.optional (value.router != null) value.router)
    )
  ) declared;

  externalAddress =
    name: interface: address:
    let
      path = "interfaces.external.${name}";
      plain = !lib.hasInfix "/" address;
      number = ipv4.parseAddress (lib.head (lib.splitString "/" address));
      prefix = if interface.prefix == null then null else ipv4.parseCidr interface.prefix;
    in
    if plain && interface.prefix == null then
      [
        (check false "${option path}.addresses: ${address} has no prefix length. Write ${address}/24, or whatever its subnet is, or set ${option path}.prefix.")
      ]
    else
      hostAddress "${path}.addresses" (cfg.build.withPrefixLength interface address)
      ++ lib.optional plain (
        check (prefix == null || number == null || ipv4.contains prefix number)
          "${option path}.addresses: ${address} is outside its prefix, ${interface.prefix}. Correct one of the two, or give the address a prefix length of its own (${address}/32)."
      );

  cidrsOf =
    interface:
    map (address: ipv4.parseCidr (cfg.build.withPrefixLength interface address)) interface.addresses;
  # That of the first address whose subnet has room for a router.
  subnetOf =
    interface:
    lib.findFirst (subnet: subnet != null && subnet.prefixLength < 32) null (cidrsOf interface);

  gatewayOf =
    name: interface:
    let
      path = "interfaces.external.${name}";
      own = interface.gatewayOffset != null;
      offsetPath = if own then "${path}.gatewayOffset" else "gatewayOffset";
      offset = if own then interface.gatewayOffset else cfg.gatewayOffset;
      subnet = subnetOf interface;
      counted = ipv4.gateway subnet offset;
      addresses = map (
        address: ipv4.parseAddress (lib.head (lib.splitString "/" address))
      ) interface.addresses;
      text = "${ipv4.formatAddress subnet.network}/${toString subnet.prefixLength}";
      remedy = "Count from its first address (1) or from its last before broadcast (-1), or name the router: ${option path}.router.";
      named = ipv4.parseAddress interface.router;
    in
    if interface.router != null then
      [
        (check (named != null)
          "${option path}.router: ${interface.router} is no IPv4 address. Each of the four numbers is at most 255."
        )
        (check (
          named == null || !lib.elem named addresses
        ) "${option path}.router: ${interface.router} is an address of this box. Write the router's.")
      ]
    # With DHCP the first address, and so the subnet, is not known before the box runs.
    else if interface.dhcp || lib.any (subnet: subnet == null) (cidrsOf interface) then
      [ ]
    else if subnet == null then
      lib.optional (interface.addresses != [ ]) (
        check false "${option path}.addresses: no subnet of external interface ${name} has room for a router. Write an address with the prefix length of its subnet, or name the router: ${option path}.router."
      )
    else
      [
        (check (counted != null)
          "${option offsetPath}: an offset of ${toString offset} is outside the subnet ${text} of external interface ${name}. ${remedy}"
        )
        (check (counted == null || !lib.elem counted addresses)
          "${option offsetPath}: an offset of ${toString offset} makes ${
            ipv4.formatAddress (if counted == null then 0 else counted)
          } the router of external interface ${name}, which is an address of this box. ${remedy}"
        )
      ];

  # The daemon takes a local route that is no network for one of its first address; networkd refuses it.
  routedOf =
    name: interface:
    map (
      network:
      let
        subnet = ipv4.parseCidr (if lib.hasInfix "/" network then network else "${network}/32");
      in
      check (subnet != null && subnet.address == subnet.network)
        "${option "interfaces.external.${name}.routed"}: ${network} is no IPv4 address or network. Write 198.51.100.7, or 192.0.2.64/28 with the network's own address."
    ) interface.routed;

  # Judged here only in the part of the syntax that this and the daemon's regular expressions have in common.
  judgeable = !lib.hasInfix "\\" cfg.build.pattern && !lib.hasInfix "(?" cfg.build.pattern;
  matches = name: builtins.match "(${cfg.build.pattern})" name != null;
  patternOption = option "interfacesPattern";
  pattern = [
    (check (cfg.build.pattern != "")
      "${option "interfaces.external"}: no external interface. Declare one, or say by ${patternOption} which interfaces are."
    )
  ]
  ++ lib.optionals (judgeable && cfg.build.pattern != "" && cfg.interfacesPattern != null) (
    map (
      {
        path,
        kind,
        value,
      }:
      check (!matches value.name)
        "${patternOption}: ${cfg.build.pattern} matches ${value.name}, which ${option path} makes ${kind}. Write one that matches external interfaces alone, or rename the interface."
    ) (lib.filter (interface: interface.value ? routes) declared)
    ++ lib.mapAttrsToList (
      name: _:
      check (matches name) "${patternOption}: ${cfg.build.pattern} does not match ${name}, which ${option "interfaces.external.${name}"} makes external. Write one that matches it, or leave it null."
    ) external
  );

  firewall = lib.optionals config.networking.firewall.enable [
    (check
      (lib.elem config.networking.firewall.checkReversePath [
        false
        "loose"
      ])
      "networking.firewall.checkReversePath: strict checks drop clients on external interfaces, and so all mapped traffic. Set it to false or \"loose\"."
    )
    (check (!(config.networking.firewall.filterForward && cfg.snat))
      "networking.firewall.filterForward: it drops the connections of pods that services.smartnat.snat is there for. Set it to false: the border decides what is forwarded."
    )
    (check ((config.networking.firewall.backend or "iptables") != "firewalld")
      "networking.firewall.backend: firewalld would refuse mapped traffic, and its reload takes other rules away. Take iptables or nftables."
    )
  ];
  rules = [
    (check (!(config.networking.nftables.enable && config.networking.nftables.flushRuleset))
      "networking.nftables.flushRuleset: it wipes SmartNat's and kube-proxy's rules whenever the firewall is reloaded. Set it to false, and write networking.nftables.tables instead of ruleset or rulesetFile."
    )
  ];

  defaultGateway = config.networking.defaultGateway;
  routed = lib.optional (defaultGateway != null && (defaultGateway.interface or null) != null) (
    check (!external ? ${defaultGateway.interface})
      "networking.defaultGateway: it leads out of external interface ${toString defaultGateway.interface}. Set services.smartnat.interfaces.gateway.router; routers of external interfaces are found by services.smartnat.gatewayOffset."
  );

  version = cfg.kubeProxy.version;
  kubeProxy = lib.optionals cfg.kubeProxy.enable [
    (check (lib.versionOlder version "1.43") "services.smartnat.kubeProxy.package: kube-proxy ${version} has no IPVS mode (removed in 1.43), without which Mappings of mode service do not work. Take one up to 1.42 that fits the cluster, or set services.smartnat.kubeProxy.enable to false and use mode direct only.")
    (check (!lib.any (lib.hasPrefix "--proxy-mode") cfg.kubeProxy.extraArgs)
      "services.smartnat.kubeProxy.extraArgs: --proxy-mode is ipvs, and no other mode works here. Take the flag out."
    )
    (check
      (!lib.any (argument: builtins.match ".*[[:space:]].*" argument != null) cfg.kubeProxy.extraArgs)
      "services.smartnat.kubeProxy.extraArgs: a flag holds white space, by which the unit divides them. Give each flag as one element, --flag=value."
    )
    (check (!config.services.kubernetes.proxy.enable)
      "services.kubernetes.proxy.enable: a second kube-proxy beside that of services.smartnat.kubeProxy. Disable one of them."
    )
  ];

  inStore =
    path: file:
    check (!lib.hasPrefix builtins.storeDir file)
      "${option path}: ${file} is in the Nix store, which every user of this box reads. Name a path outside, such as /etc/kubeconfig or that of a secret manager.";
  kubeconfigs = [
    (inStore "kubeconfig.file" cfg.kubeconfig.file)
    (inStore "kubeProxy.kubeconfig.file" cfg.kubeProxy.kubeconfig.file)
    (check (cfg.kubeconfig.source == "file" || cfg.provision.enable)
      "services.smartnat.kubeconfig.source: ${cfg.kubeconfig.source} takes services.smartnat.provision.enable. Set that to true, or the source to file."
    )
    (check (cfg.kubeconfig.file != cfg.kubeProxy.kubeconfig.file || !cfg.kubeProxy.enable)
      "services.smartnat.kubeProxy.kubeconfig.file: the same as services.smartnat.kubeconfig.file. Each program has rights, and so a kubeconfig, of its own."
    )
  ];
in
{
  config = lib.mkIf cfg.enable {
    assertions =
      duplicates "name" "name"
      ++ duplicates "mac" "mac"
      ++ duplicates "path" "path"
      ++ oneSelector
      ++ insideAddresses
      ++ lib.concatLists (
        lib.mapAttrsToList (
          name: interface:
          lib.optional (interface.prefix != null) (
            wellFormed "interfaces.external.${name}.prefix" interface.prefix
          )
          ++ lib.concatMap (externalAddress name interface) interface.addresses
          ++ gatewayOf name interface
          ++ routedOf name interface
        ) external
      )
      ++ pattern
      ++ firewall
      ++ rules
      ++ routed
      ++ kubeProxy
      ++ kubeconfigs;

    warnings =
      map
        (
          { path, value, ... }:
          "${option path}: the kernel's name ${value.name} is given to no interface on NixOS (networking.usePredictableInterfaceNames). Set mac or path, by which the card is found and then named, best with a name that the kernel does not give (lan0, wan0), or write its predictable name."
        )
        (
          lib.filter (
            { value, ... }:
            value.mac == null && value.path == null && builtins.match "eth[0-9]+" value.name != null
          ) (lib.optionals (cfg.interfaces.manage && config.networking.usePredictableInterfaceNames) declared)
        )
      ++
        lib.optional ((config.boot.kernel.sysctl."net.ipv4.ip_forward" or null) != null)
          "boot.kernel.sysctl.\"net.ipv4.ip_forward\" is set, perhaps by another module (networking.nat). SmartNat sets it itself, once the border is closed."
      ++ lib.mapAttrsToList (
        name: _:
        "services.smartnat.interfaces.external.${name}: neither addresses nor dhcp; nothing is served there until somebody gives it an address."
      ) (lib.filterAttrs (_: interface: interface.addresses == [ ] && !interface.dhcp) external);
  };
}
