{ lib, ... }:
let
  inherit (lib) mkOption types;

  cidr = types.strMatching "[0-9.]+/[0-9]+" // {
    description = "IPv4 address with prefix length, such as 192.0.2.1/24";
  };
  address = types.strMatching "[0-9.]+" // {
    description = "IPv4 address";
  };
  interfaceName = types.strMatching "[^[:space:]/:%,+]{1,15}" // {
    description = "interface name of at most 15 characters";
  };

  common = {
    mac = mkOption {
      type = types.nullOr (types.strMatching "([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}");
      default = null;
      example = "52:54:00:12:34:56";
      description = ''
        Hardware address by which the interface is found; it is then given the name. Surest where cards are added or moved. The
        name should not be one that the kernel gives (`eth0`), or two interfaces may want it at once.
      '';
    };

    path = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "pci-0000:02:00.0";
      description = "Path by which the interface is found (`udevadm info -q property /sys/class/net/NAME`, `ID_PATH`); it is then given the name.";
    };

    dhcp = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether DHCP gives an address. Static ones are added to it.";
    };

    mtu = mkOption {
      type = types.nullOr (types.ints.between 576 65535);
      default = null;
      example = 9001;
      description = "Largest packet, in bytes. `null`: the kernel's, or DHCP's.";
    };
  };

  inside = types.submodule {
    options = common // {
      name = mkOption {
        type = interfaceName;
        default = "eth0";
        example = "cluster0";
        description = "Name of the interface.";
      };

      addresses = mkOption {
        type = types.listOf cidr;
        default = [ ];
        example = [ "10.0.0.2/24" ];
        description = "Static addresses with the prefix length of their subnet.";
      };

      router = mkOption {
        type = types.nullOr address;
        default = null;
        example = "10.0.0.1";
        description = "Default router. `null`: DHCP's, or none.";
      };

      routes = mkOption {
        type = types.listOf (
          types.submodule {
            options = {
              destination = mkOption {
                type = cidr;
                example = "10.244.0.0/16";
                description = "Network that is reached by `gateway`.";
              };
              gateway = mkOption {
                type = address;
                example = "10.0.0.1";
                description = "Router of that network.";
              };
            };
          }
        );
        default = [ ];
        example = [
          {
            destination = "10.244.0.0/16";
            gateway = "10.0.0.1";
          }
        ];
        description = "Static routes, usually to the pods.";
      };
    };
  };

  external = types.submodule {
    options = common // {
      prefix = mkOption {
        type = types.nullOr cidr;
        default = null;
        example = "203.0.113.0/24";
        description = "Subnet of `addresses` that have no prefix length of their own.";
      };

      addresses = mkOption {
        type = types.listOf (
          types.strMatching "[0-9.]+(/[0-9]+)?"
          // {
            description = "IPv4 address, with or without prefix length";
          }
        );
        default = [ ];
        example = [
          "203.0.113.10"
          "203.0.113.11"
        ];
        description = ''
          Addresses that Mappings can be served on. The router is looked for in the subnet of the first one that has room for it
          (not a /32); with `dhcp` that is usually the one that DHCP gave.
        '';
      };

      gatewayOffset = mkOption {
        type = types.nullOr (
          types.addCheck types.int (offset: offset != 0)
          // {
            description = "integer but 0";
          }
        );
        default = null;
        example = -1;
        description = "Where this interface's router is in that subnet. `null`: as `services.smartnat.gatewayOffset`.";
      };

      router = mkOption {
        type = types.nullOr address;
        default = null;
        example = "100.64.0.1";
        description = ''
          Address of this interface's router (`SNCTRLR_GW_ADDRESS`). It wins over the offset, and may lie outside of every subnet
          of the interface: where addresses are assigned as /32, it must be given. `null`: by the offset.
        '';
      };

      routed = mkOption {
        type = types.listOf (
          types.strMatching "[0-9.]+(/[0-9]+)?"
          // {
            description = "IPv4 address or network";
          }
        );
        default = [ ];
        example = [
          "198.51.100.7"
          "192.0.2.64/28"
        ];
        description = ''
          Further addresses, or networks of them, that the router sends to this box by this interface. Mappings are served on
          them as on `addresses`. They are local routes and answer no ARP: the router must have a route to them.
        '';
      };
    };
  };
in
{
  options.services.smartnat.interfaces = {
    manage = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Whether the module configures the interfaces, through systemd-networkd. `false`: somebody else does; then take
        `ManageForeignRoutingPolicyRules=no` and the like from `deploy/networkd`, where networkd is used.
      '';
    };

    gateway = mkOption {
      type = inside;
      default = { };
      example = {
        name = "eth0";
        dhcp = true;
      };
      description = ''
        The default gateway interface (`SNCTRLR_DEFAULT_GW_INTERFACE`): the box's own way out, and to the cluster unless there is
        `cluster`. SmartNat leaves it alone.
      '';
    };

    cluster = mkOption {
      type = types.nullOr inside;
      default = null;
      example = {
        name = "cluster0";
        mac = "52:54:00:12:34:57";
        addresses = [ "10.1.0.2/24" ];
      };
      description = "An interface of its own to pods and API server, where the default gateway interface does not reach them.";
    };

    external = mkOption {
      type = types.attrsOf external;
      default = { };
      example = {
        wan0 = {
          mac = "52:54:00:12:34:58";
          prefix = "203.0.113.0/24";
          addresses = [
            "203.0.113.10"
            "203.0.113.11"
          ];
        };
      };
      description = "External interfaces by name.";
    };
  };
}
