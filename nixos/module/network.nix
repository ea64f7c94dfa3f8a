# Interfaces through systemd-networkd, kernel parameters and modules.
{
  config,
  lib,
  ...
}:
let
  cfg = config.services.smartnat;
  inherit (cfg.interfaces) gateway cluster external;

  # Lines of a file of deploy/ without comments.
  linesOf =
    file:
    lib.filter (line: line != "" && !lib.hasPrefix "#" line) (
      map lib.trim (lib.splitString "\n" (builtins.readFile file))
    );
  sysctl =
    line:
    let
      parts = map lib.trim (lib.splitString "=" line);
    in
    lib.nameValuePair (lib.elemAt parts 0) (lib.mkDefault (lib.toInt (lib.elemAt parts 1)));

  insideInterfaces = [ gateway ] ++ lib.optional (cluster != null) cluster;
  named =
    insideInterfaces ++ lib.mapAttrsToList (name: interface: interface // { inherit name; }) external;

  linkConfig =
    interface: lib.optionalAttrs (interface.mtu != null) { MTUBytes = toString interface.mtu; };

  insideNetwork = interface: {
    matchConfig.Name = interface.name;
    linkConfig = linkConfig interface;
    networkConfig.DHCP = if interface.dhcp then "ipv4" else "no";
    address = interface.addresses;
    routes =
      lib.optional (interface.router != null) { Gateway = interface.router; }
      ++ map (route: {
        Destination = route.destination;
        Gateway = route.gateway;
      }) interface.routes;
  };

  # RouteMetric keeps the main table's way to the subnet behind every other. No gateway and no route but local ones: answers to
  # clients go by SmartNat's own tables. DHCP gives an address and nothing else: an external network has no say in the box's routes, names or time.
  externalNetwork = name: interface: {
    matchConfig.Name = name;
    linkConfig = linkConfig interface // {
      RequiredForOnline = false;
    };
    networkConfig = {
      DHCP = if interface.dhcp then "ipv4" else "no";
      LinkLocalAddressing = false;
      IPv6AcceptRA = false;
      LLMNR = false;
      MulticastDNS = false;
    };
    dhcpV4Config = lib.mkIf interface.dhcp {
      RouteMetric = 4096;
      UseGateway = false;
      UseRoutes = false;
      UseDNS = false;
      UseNTP = false;
      UseDomains = false;
      UseHostname = false;
    };
    addresses = map (address: {
      Address = cfg.build.withPrefixLength interface address;
      RouteMetric = 4096;
    }) interface.addresses;
    routes = map (network: {
      Type = "local";
      Destination = network;
    }) interface.routed;
  };
in
{
  options.services.smartnat.build.withPrefixLength = lib.mkOption {
    internal = true;
    readOnly = true;
    type = lib.types.functionTo (lib.types.functionTo lib.types.str);
    default =
      interface: address:
      if lib.hasInfix "/" address || interface.prefix == null then
        address
      else
        "${address}/${lib.last (lib.splitString "/" interface.prefix)}";
    description = "An address of an external interface with its prefix length.";
  };

  options.services.smartnat.build.externalNetwork = lib.mkOption {
    internal = true;
    readOnly = true;
    type = lib.types.functionTo (lib.types.functionTo lib.types.raw);
    default = externalNetwork;
    description = "What systemd-networkd is told of external interfaces: of those with this name, or pattern, and these options.";
  };

  config = lib.mkIf cfg.enable {
    boot.kernelModules = linesOf ../../deploy/modules-load.d/smartnat.conf;

    # Not here: net.ipv4.ip_forward, which the daemon sets once the border is closed.
    boot.kernel.sysctl =
      lib.listToAttrs (map sysctl (linesOf ../../deploy/sysctl.d/60-smartnat.conf))
      // {
        # What an interface has is the larger of "all" and its own.
        "net.ipv4.conf.all.rp_filter" = lib.mkDefault 0;
        "net.ipv4.conf.default.rp_filter" = lib.mkDefault 0;
      };

    networking = lib.mkIf cfg.interfaces.manage {
      useNetworkd = true;
      useDHCP = false;
    };

    # What comes from the daemon is left alone, whoever manages the interfaces.
    systemd.network.config.networkConfig = {
      ManageForeignRoutingPolicyRules = false;
      ManageForeignRoutes = false;
      ManageForeignNextHops = false;
    };
    systemd.network.links = lib.mkIf cfg.interfaces.manage (
      lib.listToAttrs (
        map (interface: {
          name = "10-smartnat-${interface.name}";
          value = {
            matchConfig =
              lib.optionalAttrs (interface.mac != null) { PermanentMACAddress = interface.mac; }
              // lib.optionalAttrs (interface.path != null) { Path = interface.path; };
            linkConfig.Name = interface.name;
          };
        }) (lib.filter (interface: interface.mac != null || interface.path != null) named)
      )
    );
    systemd.network.networks = lib.mkMerge [
      {
        # kube-proxy's own: the ClusterIPs are its addresses, and it must stay down and without ARP.
        "05-kube-ipvs0" = {
          matchConfig.Name = "kube-ipvs0";
          linkConfig.Unmanaged = true;
        };
      }
      (lib.mkIf cfg.interfaces.manage (
        lib.listToAttrs (
          map (
            interface: lib.nameValuePair "10-smartnat-${interface.name}" (insideNetwork interface)
          ) insideInterfaces
          ++ lib.mapAttrsToList (
            name: interface: lib.nameValuePair "20-smartnat-${name}" (externalNetwork name interface)
          ) external
        )
      ))
    ];
  };
}
