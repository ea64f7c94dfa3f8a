# What the scenarios share: the machines, their networks, and what their scripts say.
#
#   vlan 1  cluster   10.0.0.0/24      control plane .10 (and .1), box .2, second box .3, pods behind .21 and .22
#   vlan 2  wan0      203.0.113.0/24   box .10 and .11, second box .20, router .1
#   vlan 3  wan1      198.51.100.0/24  box .10, router .1
#
# A client is the router of its network itself, with the addresses that it asks from on its loopback interface; a pod is a machine with
# the pod's address on its own. Nobody but the box has a way between the networks.
{
  pkgs,
  smartnatModule,
  packages,
}:
let
  inherit (pkgs) lib;

  token = "the-token-of-the-tests";
  kubeconfig = builtins.toJSON {
    apiVersion = "v1";
    kind = "Config";
    current-context = "test";
    clusters = [
      {
        name = "test";
        cluster = {
          server = "https://10.0.0.10:6443";
          insecure-skip-tls-verify = true;
        };
      }
    ];
    users = [
      {
        name = "test";
        user = { inherit token; };
      }
    ];
    contexts = [
      {
        name = "test";
        context = {
          cluster = "test";
          user = "test";
        };
      }
    ];
  };

  peer = pkgs.writeShellScriptBin "peer" ''exec ${pkgs.python3Minimal}/bin/python3 ${./peer.py} "$@"'';

  # A machine on these networks alone: { interface = vlan; }, without the emulator's own network.
  onNetworks = interfaces: {
    virtualisation = {
      interfaces = lib.mapAttrs (_: vlan: {
        inherit vlan;
        assignIP = false;
      }) interfaces;
      qemu.networkingOptions = lib.mkForce [ ];
    };
  };
  # Addresses of a machine that is no box, by systemd-networkd.
  withNetwork =
    name:
    {
      addresses,
      routes ? [ ],
    }:
    {
      networking = {
        useNetworkd = true;
        useDHCP = false;
        firewall.enable = false;
      };
      systemd.network.networks."10-${name}" = {
        matchConfig.Name = name;
        address = addresses;
        inherit routes;
        networkConfig = {
          IPv6AcceptRA = false;
          LinkLocalAddressing = false;
        };
      };
    };
  onLoopback = addresses: {
    systemd.network.networks."10-lo" = {
      matchConfig.Name = "lo";
      address = map (address: "${address}/32") ([ "127.0.0.1" ] ++ addresses);
    };
  };

  serviceAccount = pkgs.runCommand "service-account" { nativeBuildInputs = [ pkgs.openssl ]; } ''
    mkdir $out
    openssl genrsa -out $out/key 2048
    openssl rsa -in $out/key -pubout -out $out/pub
  '';

  controlPlane = {
    imports = [
      (onNetworks { lan0 = 1; })
      (withNetwork "lan0" {
        addresses = [
          "10.0.0.10/24"
          "10.0.0.1/24"
        ];
      })
    ];
    virtualisation.memorySize = 2048;
    services.etcd = {
      enable = true;
      name = "cp";
      clientCertAuth = lib.mkForce false;
      peerClientCertAuth = lib.mkForce false;
      listenClientUrls = lib.mkForce [ "http://127.0.0.1:2379" ];
      advertiseClientUrls = lib.mkForce [ "http://127.0.0.1:2379" ];
      listenPeerUrls = lib.mkForce [ "http://127.0.0.1:2380" ];
      initialAdvertisePeerUrls = lib.mkForce [ "http://127.0.0.1:2380" ];
      initialCluster = lib.mkForce [ "cp=http://127.0.0.1:2380" ];
      certFile = lib.mkForce null;
      keyFile = lib.mkForce null;
      trustedCaFile = lib.mkForce null;
    };
    services.kubernetes = {
      masterAddress = "10.0.0.10";
      addons.dns.enable = false;
      apiserver = {
        enable = true;
        securePort = 6443;
        advertiseAddress = "10.0.0.10";
        authorizationMode = [ "AlwaysAllow" ];
        tokenAuthFile = pkgs.writeText "tokens.csv" "${token},admin,admin,system:masters\n";
        etcd.servers = [ "http://127.0.0.1:2379" ];
        serviceAccountKeyFile = "${serviceAccount}/pub";
        serviceAccountSigningKeyFile = "${serviceAccount}/key";
        serviceClusterIpRange = "10.43.0.0/16";
        extraOpts = "--cert-dir=/var/lib/kubernetes/certs";
      };
    };
    environment = {
      systemPackages = [
        pkgs.kubectl
        peer
      ];
      sessionVariables.KUBECONFIG = "/etc/kubeconfig";
      etc."kubeconfig".text = kubeconfig;
      etc."manifests/mapping-crd.yaml".source = ../../deploy/crds/mapping.yaml;
      etc."manifests/rbac.yaml".source = ../../deploy/rbac.yaml;
    };
  };

  # A pod's address, on a machine of the cluster's network that answers by the box unless that is not the way.
  pod =
    {
      name,
      node,
      address,
      box ? "10.0.0.2",
    }:
    {
      imports = [
        (onNetworks { lan0 = 1; })
        (withNetwork "lan0" {
          addresses = [ "${node}/24" ];
          # Where the cluster sends what is not its own: only what asks for clients' own addresses, or goes out, uses it.
          routes = [
            {
              Gateway = box;
              PreferredSource = address;
            }
          ];
        })
        (onLoopback [ address ])
      ];
      systemd.services.pod = {
        wantedBy = [ "multi-user.target" ];
        after = [ "network-online.target" ];
        wants = [ "network-online.target" ];
        serviceConfig = {
          ExecStart = "${lib.getExe peer} serve ${name} ${address} 8080";
          Restart = "always";
          RestartSec = 1;
        };
      };
      environment.systemPackages = [ peer ];
    };

  client =
    {
      vlan,
      router,
      addresses,
      mask ? 24,
    }:
    {
      imports = [
        (onNetworks { net0 = vlan; })
        (withNetwork "net0" { addresses = [ "${router}/${toString mask}" ]; })
        (onLoopback addresses)
      ];
      environment.systemPackages = [ peer ];
    };

  # A box on the cluster's network (lan0) and these external ones, with the kubeconfigs as system credentials.
  box =
    {
      address ? "10.0.0.2",
      external ? {
        wan0 = 2;
        wan1 = 3;
      },
    }:
    {
      imports = [
        smartnatModule
        (onNetworks ({ lan0 = 1; } // external))
      ];
      virtualisation.credentials = {
        "smartnat.kubeconfig".text = kubeconfig;
        "kube-proxy.kubeconfig".text = kubeconfig;
      };
      environment.systemPackages = [ peer ];
      services.smartnat = {
        enable = true;
        package = packages.smartnat-manager;
        kubeProxy.package = packages.kube-proxy;
        provision.enable = true;
        kubeconfig.source = "credential";
        interfaces.gateway = {
          name = "lan0";
          addresses = [ "${address}/24" ];
          router = "10.0.0.1";
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
        interfaces.external = lib.mkDefault {
          wan0 = {
            prefix = "203.0.113.0/24";
            addresses = [
              "203.0.113.10"
              "203.0.113.11"
            ];
          };
          wan1 = {
            prefix = "198.51.100.0/24";
            addresses = [ "198.51.100.10" ];
          };
        };
      };
    };

  machines = {
    cp = controlPlane;
    pod1 = pod {
      name = "pod1";
      node = "10.0.0.21";
      address = "10.244.1.2";
    };
    pod2 = pod {
      name = "pod2";
      node = "10.0.0.22";
      address = "10.244.2.2";
    };
    box = box { };
    client1 = client {
      vlan = 2;
      router = "203.0.113.1";
      addresses = [
        "192.0.2.10"
        "192.0.2.200"
      ];
    };
    client2 = client {
      vlan = 3;
      router = "198.51.100.1";
      addresses = [ "192.0.2.130" ];
    };
  };

  # One scenario: `nodes` are laid over, or added to, the machines above; null takes one out.
  scenario =
    {
      name,
      nodes ? { },
      script,
    }:
    pkgs.testers.runNixOSTest {
      name = "smartnat-${name}";
      nodes =
        let
          all = lib.filterAttrs (_: node: node != null) (machines // nodes);
        in
        lib.mapAttrs (
          machine: node:
          if machines ? ${machine} && nodes ? ${machine} && lib.isAttrs node && node ? over then
            {
              imports = [
                machines.${machine}
                node.over
              ];
            }
          else
            node
        ) all;
      testScript = builtins.readFile ./prelude.py + "\n" + script;
    };
in
{
  inherit
    box
    client
    pod
    scenario
    kubeconfig
    packages
    pkgs
    lib
    ;
}
