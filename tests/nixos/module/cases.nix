# What is refused, with a piece of the message that says so; and what is not. A case changes the sound box of ./default.nix.
{ lib }:
let
  smartnat = settings: { services.smartnat = settings; };
  external = settings: smartnat { interfaces.external = settings; };
  wan0 = settings: external { wan0 = settings; };
in
{
  good = {
    the-sound-box = { };
    an-interface-of-its-own-for-the-cluster = smartnat {
      interfaces.cluster = {
        name = "cluster0";
        path = "pci-0000:02:00.0";
        addresses = [ "10.1.0.2/24" ];
        routes = [
          {
            destination = "10.244.0.0/16";
            gateway = "10.1.0.1";
          }
        ];
        mtu = 9000;
      };
    };
    the-router-last-in-its-subnet = smartnat { gatewayOffset = -1; };
    a-router-of-its-own-for-one-interface = wan0 { gatewayOffset = -1; };
    a-single-address-ahead-of-the-one-with-a-subnet = wan0 {
      addresses = lib.mkBefore [ "192.0.2.99/32" ];
    };
    single-addresses-with-a-router-outside = external {
      wan1 = {
        addresses = [ "192.0.2.1/32" ];
        router = "100.64.0.1";
      };
    };
    addresses-that-the-router-sends-to-the-box = wan0 {
      routed = [
        "198.51.100.7"
        "192.0.2.64/28"
      ];
    };
    both-addresses-of-a-point-to-point-link = external {
      wan1 = {
        prefix = "192.0.2.0/31";
        addresses = [ "192.0.2.0" ];
      };
    };
    an-address-with-a-prefix-of-its-own-outside-the-other = wan0 {
      addresses = lib.mkAfter [ "192.0.2.99/32" ];
    };
    a-subnet-known-by-dhcp-alone = external {
      wan1 = {
        dhcp = true;
        addresses = [ "192.0.2.1/32" ];
      };
    };
    a-pattern-that-matches-external-interfaces-alone = smartnat { interfacesPattern = "wan[0-9]+"; };
    a-pattern-that-cannot-be-judged-here = smartnat { interfacesPattern = "wan\\d+"; };
    loose-reverse-path-checks.networking.firewall.checkReversePath = "loose";
    strict-reverse-path-checks-without-a-firewall.networking.firewall = {
      enable = false;
      checkReversePath = true;
    };
    the-nftables-backend.networking.nftables.enable = true;
    forwarding-filtered = {
      networking.nftables.enable = true;
      networking.firewall.filterForward = true;
    };
    rules-of-ones-own-in-tables.networking.nftables = {
      enable = true;
      tables.mine = {
        family = "inet";
        content = "";
      };
    };
    the-last-kube-proxy-with-ipvs = smartnat { kubeProxy.version = "1.42.9"; };
    no-kube-proxy-of-a-version-without-ipvs = smartnat {
      kubeProxy.enable = false;
      kubeProxy.version = "1.43.0";
    };
    kubeconfigs-by-credential = smartnat {
      provision.enable = true;
      kubeconfig.source = "credential";
    };
    everything-from-files = smartnat {
      kubeProxy.enable = false;
      manifests = [ ../../../docs/examples/manifests/mappings.yaml ];
    };
    chrony-with-servers = smartnat {
      time.daemon = "chrony";
      time.servers = [ "10.0.0.1" ];
    };
    no-clock = smartnat { time.daemon = "none"; };
    interfaces-by-somebody-else = smartnat { interfaces.manage = false; };
    keepalived-may-speak = smartnat {
      border.openings = [
        "vrrp"
        "vrrp=203.0.113.3"
        "vrrp=fe80::3"
        "tcp/179@192.0.2.1/32"
      ];
    };
    all-settings = smartnat {
      masquerade = false;
      snat = true;
      debug = true;
      monitor.address = "";
      monitor.port = 9100;
      iptablesTimeout = 20;
      refreshPeriod = 30;
      maxFinalizeWait = 5;
      maxPortsPerMapping = 256;
      instanceName = "border-7";
      namespace = "border";
      insidePrefixes = [ "cali+" ];
      extraSettings.SNCTRLR_MARK_BITS = "20-30";
    };
  };

  # Not refused, but not passed over either.
  doubtful = {
    a-name-of-the-kernel-that-nobody-gives = {
      config = {
        networking.usePredictableInterfaceNames = lib.mkForce true;
        services.smartnat.interfaces.gateway.name = "eth0";
      };
      message = "services.smartnat.interfaces.gateway: the kernel's name eth0 is given to no interface on NixOS";
    };
    forwarding-by-another-module = {
      config.boot.kernel.sysctl."net.ipv4.ip_forward" = 1;
      message = "boot.kernel.sysctl.\"net.ipv4.ip_forward\" is set";
    };
    an-external-interface-that-serves-nothing = {
      config = external { wan1 = { }; };
      message = "services.smartnat.interfaces.external.wan1: neither addresses nor dhcp";
    };
  };

  bad = {
    two-kinds-for-one-name = {
      config = smartnat { interfaces.cluster.name = "wan0"; };
      message = "services.smartnat.interfaces.cluster and services.smartnat.interfaces.external.wan0: name wan0 is the cluster interface and an external interface at once";
    };
    the-gateway-interface-external-by-name = {
      config = external { eth0.addresses = [ "192.0.2.10/24" ]; };
      message = "services.smartnat.interfaces.gateway and services.smartnat.interfaces.external.eth0: name eth0";
    };
    two-kinds-for-one-mac = {
      config = smartnat { interfaces.gateway.mac = "52:54:00:00:01:01"; };
      message = "services.smartnat.interfaces.gateway and services.smartnat.interfaces.external.wan0: mac 52:54:00:00:01:01";
    };
    two-kinds-for-one-path = {
      config = smartnat {
        interfaces.gateway.path = "pci-1";
        interfaces.cluster = {
          name = "cluster0";
          path = "pci-1";
        };
      };
      message = "path pci-1 is the default gateway interface and the cluster interface at once";
    };
    mac-and-path = {
      config = wan0 { path = "pci-1"; };
      message = "services.smartnat.interfaces.external.wan0: found by both mac and path";
    };
    an-address-outside-its-prefix = {
      config = wan0 { addresses = lib.mkAfter [ "203.0.114.10" ]; };
      message = "services.smartnat.interfaces.external.wan0.addresses: 203.0.114.10 is outside its prefix, 203.0.113.0/24";
    };
    an-address-without-a-prefix = {
      config = external { wan1.addresses = [ "192.0.2.10" ]; };
      message = "services.smartnat.interfaces.external.wan1.addresses: 192.0.2.10 has no prefix length. Write 192.0.2.10/24";
    };
    an-octet-too-large = {
      config = external { wan1.addresses = [ "192.0.2.300/24" ]; };
      message = "services.smartnat.interfaces.external.wan1.addresses: 192.0.2.300/24 is no IPv4 address";
    };
    the-address-of-the-subnet-itself = {
      config = external { wan1.addresses = [ "192.0.2.0/24" ]; };
      message = "192.0.2.0/24 is the network or broadcast address of its subnet. Take one between 192.0.2.1 and 192.0.2.254";
    };
    the-broadcast-address-of-the-gateway-interface = {
      config = smartnat { interfaces.gateway.addresses = lib.mkForce [ "10.0.0.255/24" ]; };
      message = "services.smartnat.interfaces.gateway.addresses: 10.0.0.255/24 is the network or broadcast address";
    };
    a-prefix-that-is-none = {
      config = external { wan1.prefix = "192.0.2.0/33"; };
      message = "services.smartnat.interfaces.external.wan1.prefix: 192.0.2.0/33 is no IPv4 address with prefix length";
    };
    a-router-that-is-no-address = {
      config = smartnat { interfaces.gateway.router = lib.mkForce "10.0.0.256"; };
      message = "services.smartnat.interfaces.gateway: the router 10.0.0.256 is no IPv4 address";
    };
    a-destination-that-is-none = {
      config = smartnat {
        interfaces.gateway.routes = [
          {
            destination = "10.244.0.0/99";
            gateway = "10.0.0.1";
          }
        ];
      };
      message = "services.smartnat.interfaces.gateway.routes: 10.244.0.0/99";
    };
    a-gateway-offset-outside-the-subnet = {
      config = smartnat { gatewayOffset = 300; };
      message = "services.smartnat.gatewayOffset: an offset of 300 is outside the subnet 203.0.113.0/24 of external interface wan0";
    };
    an-interfaces-gateway-offset-outside-its-subnet = {
      config = wan0 { gatewayOffset = -255; };
      message = "services.smartnat.interfaces.external.wan0.gatewayOffset: an offset of -255 is outside";
    };
    a-gateway-offset-that-leads-to-the-box-itself = {
      config = smartnat { gatewayOffset = 10; };
      message = "makes 203.0.113.10 the router of external interface wan0, which is an address of this box";
    };
    single-addresses-without-a-router = {
      config = external { wan1.addresses = [ "192.0.2.1/32" ]; };
      message = "services.smartnat.interfaces.external.wan1.addresses: no subnet of external interface wan1 has room for a router";
    };
    an-external-router-that-is-no-address = {
      config = wan0 { router = "203.0.113.256"; };
      message = "services.smartnat.interfaces.external.wan0.router: 203.0.113.256 is no IPv4 address";
    };
    an-external-router-that-is-the-box-itself = {
      config = wan0 { router = "203.0.113.10"; };
      message = "services.smartnat.interfaces.external.wan0.router: 203.0.113.10 is an address of this box";
    };
    a-routed-network-with-bits-of-a-host = {
      config = wan0 { routed = [ "192.0.2.65/28" ]; };
      message = "services.smartnat.interfaces.external.wan0.routed: 192.0.2.65/28 is no IPv4 address or network";
    };
    no-external-interface = {
      config = smartnat { interfaces.external = lib.mkForce { }; };
      message = "services.smartnat.interfaces.external: no external interface";
    };
    a-pattern-that-matches-the-gateway = {
      config = smartnat { interfacesPattern = "(eth|wan)[0-9]+"; };
      message = "services.smartnat.interfacesPattern: (eth|wan)[0-9]+ matches eth0, which services.smartnat.interfaces.gateway makes the default gateway interface";
    };
    a-pattern-that-misses-an-external-interface = {
      config = smartnat { interfacesPattern = "wan[1-9]"; };
      message = "services.smartnat.interfacesPattern: wan[1-9] does not match wan0";
    };
    strict-reverse-path-checks = {
      config.networking.firewall.checkReversePath = "strict";
      message = "networking.firewall.checkReversePath: strict checks drop clients";
    };
    forwarding-filtered-where-pods-go-out = {
      config = lib.recursiveUpdate (smartnat { snat = true; }) {
        networking.nftables.enable = true;
        networking.firewall.filterForward = true;
      };
      message = "networking.firewall.filterForward: it drops the connections of pods";
    };
    rules-that-wipe-all-others = {
      config.networking.nftables = {
        enable = true;
        ruleset = "table inet mine { }";
      };
      message = "networking.nftables.flushRuleset: it wipes SmartNat's and kube-proxy's rules";
    };
    a-default-route-by-an-external-interface = {
      config.networking.defaultGateway = {
        address = "203.0.113.1";
        interface = "wan0";
      };
      message = "networking.defaultGateway: it leads out of external interface wan0";
    };
    kube-proxy-without-ipvs = {
      config = smartnat { kubeProxy.version = "1.43.0"; };
      message = "services.smartnat.kubeProxy.package: kube-proxy 1.43.0 has no IPVS mode";
    };
    another-proxy-mode = {
      config = smartnat { kubeProxy.extraArgs = [ "--proxy-mode=nftables" ]; };
      message = "services.smartnat.kubeProxy.extraArgs: --proxy-mode is ipvs";
    };
    two-flags-in-one = {
      config = smartnat { kubeProxy.extraArgs = [ "--ipvs-scheduler lc" ]; };
      message = "services.smartnat.kubeProxy.extraArgs: a flag holds white space";
    };
    two-kube-proxies = {
      config.services.kubernetes = {
        masterAddress = "10.0.0.10";
        proxy.enable = true;
      };
      message = "services.kubernetes.proxy.enable: a second kube-proxy";
    };
    a-kubeconfig-that-everybody-reads = {
      config = smartnat { kubeconfig.file = "${builtins.storeDir}/kubeconfig"; };
      message = "services.smartnat.kubeconfig.file: ${builtins.storeDir}/kubeconfig is in the Nix store";
    };
    kube-proxys-kubeconfig-that-everybody-reads = {
      config = smartnat { kubeProxy.kubeconfig.file = "${builtins.storeDir}/kubeconfig"; };
      message = "services.smartnat.kubeProxy.kubeconfig.file: ${builtins.storeDir}/kubeconfig is in the Nix store";
    };
    one-kubeconfig-for-both = {
      config = smartnat { kubeProxy.kubeconfig.file = "/etc/smartnat/kubeconfig"; };
      message = "services.smartnat.kubeProxy.kubeconfig.file: the same as services.smartnat.kubeconfig.file";
    };
    user-data-that-nobody-fetches = {
      config = smartnat { kubeconfig.source = "user-data"; };
      message = "services.smartnat.kubeconfig.source: user-data takes services.smartnat.provision.enable";
    };
  };
}
