{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkEnableOption mkOption types;
  cfg = config.services.smartnat;
  setting = name: " (`${name}`)";
in
{
  options.services.smartnat = {
    enable = mkEnableOption "SmartNat, a border router of a Kubernetes cluster";

    package = mkOption {
      type = types.package;
      default =
        pkgs.smartnat-manager or (throw ''
          services.smartnat.package: there is no smartnat-manager in pkgs. Import the flake's nixosModules.default, which
          brings its own, or set the option.'');
      defaultText = lib.literalMD "the package of the flake that the module comes from";
      example = lib.literalExpression "inputs.smartnat.packages.\${system}.smartnat-manager";
      description = "The package that holds `bin/smartnat-manager`.";
    };

    gatewayOffset = mkOption {
      type = types.addCheck types.int (offset: offset != 0) // {
        description = "integer but 0";
      };
      default = 1;
      example = -1;
      description = ''
        Where the routers of external interfaces are, counted in the subnet of an interface's first address that has room for
        one: 1 is its first address, -1 the last one before broadcast${setting "SNCTRLR_GW_ADDRESS_OFFSET"}. An interface may
        have its own: `interfaces.external.<name>.gatewayOffset`, or `router`.
      '';
    };

    interfacesPattern = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "wan[0-9]+";
      description = ''
        Regular expression for the whole names of external interfaces${setting "SNCTRLR_INTERFACES_PATTERN"}. `null`: exactly
        those of `interfaces.external`. Where it is given, everything that matches is external, also what appears later.
      '';
    };

    masquerade = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Pods see this box as the client and answer to it. `false`: they see the client's own address, and the cluster must
        route answers back through this box${setting "SNCTRLR_SETUP_MASQUERADE"}.
      '';
    };

    snat = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Connections that a mapped pod begins, and that reach this box, leave by the interface and with the address of its
        oldest Mapping here${setting "SNCTRLR_SETUP_SNAT"}.
      '';
    };

    accept = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Mapped packets pass where others in iptables' filter table drop or refuse what they do not know: a policy DROP, a last
        DROP or REJECT without matches. What stands ahead of that goes on deciding${setting "SNCTRLR_SETUP_ACCEPT"}.
      '';
    };

    debug = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Debug messages in the journal${setting "SNCTRLR_DEBUG_ENABLED"}.";
    };

    monitor.address = mkOption {
      type = types.str;
      default = "127.0.0.1";
      example = "10.0.0.2";
      description = ''
        Address of the HTTP endpoints: health, metrics, status${setting "SNCTRLR_MONITOR_IP"}. Empty: all addresses; the border
        keeps external interfaces away from it even then. On an address that others ask, open `monitor.port` in
        `networking.firewall.interfaces.<cluster interface>`.
      '';
    };

    monitor.port = mkOption {
      type = types.port;
      default = 8080;
      example = 9100;
      description = "TCP port of the HTTP endpoints${setting "SNCTRLR_MONITOR_PORT"}.";
    };

    iptablesTimeout = mkOption {
      type = types.ints.between 1 59;
      default = 10;
      example = 20;
      description = ''
        Seconds that one call of a kernel tool may take${setting "SNCTRLR_IPTABLES_TIMEOUT_SEC"}; less than the unit's watchdog
        of 60.
      '';
    };

    refreshPeriod = mkOption {
      type = types.ints.positive;
      default = 60;
      example = 30;
      description = ''
        Seconds between full looks at interfaces, addresses, routes and all that is
        programmed${setting "SNCTRLR_AUTOREFRESH_PERIOD_SEC"}. Changes are acted upon at once; this is the net below.
      '';
    };

    maxFinalizeWait = mkOption {
      type = types.ints.positive;
      default = 60;
      example = 10;
      description = ''
        Minutes that a deleted Mapping waits for an instance that configured it and does not
        answer${setting "SNCTRLR_MAX_FINALIZE_WAIT_MINUTES"}.
      '';
    };

    maxPortsPerMapping = mkOption {
      type = types.ints.between 1 256;
      default = 50;
      example = 100;
      description = "Largest number of ports of one Mapping${setting "SNCTRLR_MAX_PORTS_PER_MAPPING"}.";
    };

    border.openings = mkOption {
      type = types.listOf (
        types.strMatching "icmp-echo|dhcp|vrrp(=[0-9a-f.:]+)?|(tcp|udp)/[0-9]+(@[0-9a-f.:]+(/[0-9]+)?)?"
        // {
          description = "icmp-echo, dhcp, vrrp, vrrp=ADDRESS of a peer, or PROTOCOL/PORT[@NETWORK]";
        }
      );
      default = [
        "icmp-echo"
        "dhcp"
      ];
      example = [
        "icmp-echo"
        "tcp/179@192.0.2.1/32"
      ];
      description = ''
        What this box itself answers on external interfaces${setting "SNCTRLR_BORDER_OPENINGS"}. The host firewall has to open a
        port as well (`networking.firewall.interfaces`).
      '';
    };

    instanceName = mkOption {
      type = types.nullOr (types.strMatching "[a-z0-9]([-a-z0-9.]*[a-z0-9])?");
      default = null;
      example = "border-1";
      description = ''
        Name of this instance in the status of Mappings, a DNS name in lower case${setting "SNCTRLR_INSTANCE_NAME"}. `null`: the
        host name when the daemon starts. Boxes on one cluster must differ in it.
      '';
    };

    namespace = mkOption {
      type = types.strMatching "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
      default = "smartnat-system";
      example = "border";
      description = "Namespace of the Leases by which instances know each other${setting "SNCTRLR_NAMESPACE"}.";
    };

    insidePrefixes = mkOption {
      type = types.listOf (types.strMatching "[^[:space:],/+]{1,14}[+]?");
      default = [ ];
      example = [
        "cali+"
        "veth+"
      ];
      description = ''
        Beginnings of interface names that are inside before they are seen${setting "SNCTRLR_INSIDE_PREFIXES"}, on boxes that are
        cluster nodes.
      '';
    };

    insideInterfaces = mkOption {
      type = types.listOf (types.strMatching "[^[:space:],/+]{1,15}");
      default = [ ];
      example = [ "lan0.100" ];
      description = ''
        Exact names of interfaces that are inside although the pattern matches them or they stand above an external
        interface${setting "SNCTRLR_INSIDE_INTERFACES"}, such as the VLAN of the cluster on a trunk. `interfaces.cluster` is among
        them by itself.
      '';
    };

    manifests = mkOption {
      type = types.listOf types.path;
      default = [ ];
      example = lib.literalExpression "[ ./mappings.yaml ]";
      description = ''
        Files with Mappings, Services and EndpointSlices that are served instead of those of an API
        server${setting "SNCTRLR_MANIFESTS"}: for a box without a cluster, or with one that is not to be asked.
      '';
    };

    extraSettings = mkOption {
      type = types.attrsOf (
        types.oneOf [
          types.bool
          types.int
          types.str
        ]
      );
      default = { };
      example = {
        SNCTRLR_MARK_BITS = "20-30";
        SNCTRLR_ROUTE_TABLE_BASE = 2000;
      };
      description = "Further settings of the daemon by the names of its environment variables. They win over the options above.";
    };

    kubeconfig.source = mkOption {
      type = types.enum [
        "file"
        "credential"
        "user-data"
        "provision"
      ];
      default = if cfg.provision.enable then "provision" else "file";
      defaultText = lib.literalExpression ''if config.services.smartnat.provision.enable then "provision" else "file"'';
      example = "credential";
      description = ''
        Where the two kubeconfigs come from, this one and kube-proxy's.

        `file`: they are put there by other means (sops-nix, agenix, by hand), and noticed when they are renewed.
        `credential`: system credentials `smartnat.kubeconfig` and `kube-proxy.kubeconfig` (QEMU, SMBIOS, the EFI system
        partition, a container manager).
        `user-data`: EC2 user data, a JSON object with these names.
        `provision`: whichever of credentials, user data and a config drive is there, tried in this order.
      '';
    };

    kubeconfig.file = mkOption {
      type = types.strMatching "/[^[:space:]:]+";
      default = "/etc/smartnat/kubeconfig";
      example = "/run/secrets/smartnat-kubeconfig";
      description = ''
        The daemon's kubeconfig, readable by root alone; systemd hands it over. Not a path of the Nix store, which everybody
        reads. While it is missing the unit fails and is tried again.
      '';
    };

    kubeProxy = {
      enable = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = "kube-proxy in IPVS mode beside the daemon. Needed for Mappings of mode service; off where all are of mode direct.";
      };

      package = mkOption {
        type = types.package;
        default = pkgs.callPackage ../packages/kube-proxy.nix { };
        defaultText = lib.literalMD "kube-proxy alone, built from nixpkgs' kubernetes";
        example = lib.literalExpression "pkgs.callPackage \"\${inputs.smartnat}/nixos/packages/kube-proxy.nix\" { inherit (inputs.nixpkgs-of-the-cluster.legacyPackages.\${system}) kubernetes; }";
        description = ''
          The package that holds `bin/kube-proxy`. Its version should be the cluster's: kube-proxy may be up to three minor
          versions older than the API server, and not newer. IPVS mode is off by default from 1.40 and gone in 1.43.
        '';
      };

      version = mkOption {
        type = types.str;
        default = lib.getVersion cfg.kubeProxy.package;
        defaultText = lib.literalExpression "lib.getVersion config.services.smartnat.kubeProxy.package";
        example = "1.36.2";
        description = "Version of `package`, where the package does not tell. Decides on flags, and whether IPVS is there at all.";
      };

      kubeconfig.file = mkOption {
        type = types.strMatching "/[^[:space:]:]+";
        default = "/etc/kubeconfig";
        example = "/run/secrets/kube-proxy-kubeconfig";
        description = "kube-proxy's kubeconfig. Not a path of the Nix store.";
      };

      nodePortAddresses = mkOption {
        type = types.nonEmptyListOf types.str;
        default = [
          "127.0.0.0/8"
          "::1/128"
        ];
        example = [ "10.0.0.0/24" ];
        description = "Networks whose addresses of this box answer NodePorts. Loopback stands for none.";
      };

      extraArgs = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "--ipvs-scheduler=lc" ];
        description = "Further flags of kube-proxy. They come last and win.";
      };
    };

    provision = {
      enable = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = ''
          Whether kubeconfigs and settings are taken at boot from what the machine is given: system credentials, EC2 user data,
          a config drive; see `kubeconfig.source`. The image profile turns it on. What a boot does not find, it leaves as it was.
        '';
      };

      configDriveLabels = mkOption {
        type = types.listOf (types.strMatching "[-A-Za-z0-9_]{1,16}");
        default = [
          "SMARTNAT"
          "smartnat"
          "config-2"
          "cidata"
        ];
        example = [ "SMARTNAT" ];
        description = ''
          File system labels of config drives. The files `smartnat.kubeconfig`, `kube-proxy.kubeconfig`, `smartnat.env`,
          `hostname`, `authorized_keys` and any `NAME.network` in the top directory of the first one that is there are taken.
        '';
      };

      configDriveWait = mkOption {
        type = types.ints.unsigned;
        default = 120;
        example = 300;
        description = "Seconds that a boot without anything else waits at most for a config drive to appear: until udev knows every device, which seldom takes more than one.";
      };
    };

    time = {
      daemon = mkOption {
        type = types.enum [
          "timesyncd"
          "chrony"
          "none"
        ];
        default = "timesyncd";
        example = "chrony";
        description = "What keeps the clock. Certificates of the API server, Leases and TLS need one that is right.";
      };

      servers = mkOption {
        type = types.nullOr (types.listOf types.str);
        default = null;
        example = [ "10.0.0.1" ];
        description = ''
          NTP servers. `null`: those of `networking.timeServers`. They are reached by the gateway or cluster interface, never by an
          external one.
        '';
      };
    };
  };
}
