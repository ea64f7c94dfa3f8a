# The very units of deploy/systemd, with the paths that they have here.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.smartnat;
  source = ../../deploy/systemd;
  static = cfg.manifests != [ ];

  names =
    lib.optionals (!static) [
      "smartnat-kubeconfig.path"
      "smartnat-kubeconfig.service"
    ]
    ++ [
      "smartnat-border.service"
      "smartnat.service"
    ]
    ++ lib.optionals cfg.kubeProxy.enable [
      "kube-proxy.service"
      "kube-proxy-kubeconfig.path"
      "kube-proxy-kubeconfig.service"
    ];

  # A unit of deploy/systemd that stops to hold one of these is caught here, not at boot.
  replaceAll =
    name: replacements: text:
    lib.foldl' (
      done:
      { from, to }:
      if lib.hasInfix from done then
        lib.replaceStrings [ from ] [ to ] done
      else
        throw "nixos/module/units.nix: deploy/systemd/${name} holds no ${builtins.toJSON from}; adapt the list of replacements"
    ) text replacements;

  manager = {
    from = "/usr/local/bin/smartnat-manager";
    to = lib.getExe' cfg.package "smartnat-manager";
  };
  systemctl = {
    from = "ExecStart=systemctl ";
    to = "ExecStart=${config.systemd.package}/bin/systemctl ";
  };
  systemctlBefore = {
    from = "ExecStartPre=systemctl ";
    to = "ExecStartPre=${config.systemd.package}/bin/systemctl ";
  };
  kubeconfig = {
    from = "/etc/smartnat/kubeconfig";
    to = cfg.kubeconfig.file;
  };
  proxyKubeconfig = {
    from = "/etc/kubeconfig";
    to = cfg.kubeProxy.kubeconfig.file;
  };
  replacements = {
    "smartnat-border.service" = [ manager ];
    "smartnat.service" = [
      manager
    ]
    ++ (
      if static then
        [
          {
            from = "LoadCredential=kubeconfig:/etc/smartnat/kubeconfig\n";
            to = "";
          }
          {
            from = " --kubeconfig \${CREDENTIALS_DIRECTORY}/kubeconfig";
            to = "";
          }
        ]
      else
        [ kubeconfig ]
    );
    "smartnat-kubeconfig.path" = [ kubeconfig ];
    "smartnat-kubeconfig.service" = [
      kubeconfig
      systemctl
    ];
    "kube-proxy.service" = [
      {
        from = "/usr/local/bin/kube-proxy";
        to = lib.getExe' cfg.kubeProxy.package "kube-proxy";
      }
      systemctlBefore
      proxyKubeconfig
    ];
    "kube-proxy-kubeconfig.path" = [ proxyKubeconfig ];
    "kube-proxy-kubeconfig.service" = [
      proxyKubeconfig
      systemctl
    ];
  };

  provisioned = "-${cfg.build.provisionDirectory}/smartnat.env";
in
{
  options.services.smartnat.build.units = lib.mkOption {
    internal = true;
    readOnly = true;
    type = lib.types.attrsOf lib.types.lines;
    description = "The units, by name.";
  };

  config = lib.mkIf cfg.enable {
    services.smartnat.build.units = lib.genAttrs names (
      name: replaceAll name replacements.${name} (builtins.readFile (source + "/${name}"))
    );

    systemd.packages = [
      (pkgs.linkFarm "smartnat-units" (
        lib.mapAttrs' (name: text: {
          name = "etc/systemd/system/${name}";
          value = pkgs.writeText name text;
        }) cfg.build.units
      ))
    ];

    # What NixOS adds stands in drop-ins: programs on the PATH, and [Install], which it does not read.
    systemd.services = {
      smartnat-border = {
        wantedBy = [ "sysinit.target" ];
        path = cfg.build.tools;
        # It stands in the kernel, and the daemon puts it right: never taken away and closed again while traffic passes.
        restartIfChanged = false;
        stopIfChanged = false;
        serviceConfig.EnvironmentFile = lib.mkIf cfg.provision.enable [ provisioned ];
      };
      smartnat = {
        wantedBy = [ "multi-user.target" ];
        path = cfg.build.tools;
        # Restarted within the switch, by the new unit: the dataplane stays in between.
        stopIfChanged = false;
        restartTriggers = [ cfg.build.environment."smartnat.env" ];
        serviceConfig.EnvironmentFile = lib.mkIf cfg.provision.enable [ provisioned ];
      };
      kube-proxy = lib.mkIf cfg.kubeProxy.enable {
        wantedBy = [ "multi-user.target" ];
        path = [
          pkgs.iptables
          pkgs.ipset
          pkgs.conntrack-tools
          pkgs.kmod
        ];
        stopIfChanged = false;
        restartTriggers = [ cfg.build.environment."kube-proxy.env" ];
      };
    };
    systemd.paths = {
      smartnat-kubeconfig = lib.mkIf (!static) { wantedBy = [ "multi-user.target" ]; };
      kube-proxy-kubeconfig = lib.mkIf cfg.kubeProxy.enable { wantedBy = [ "multi-user.target" ]; };
    };

    # smartnat-manager by hand: check, plan, trace, status.
    environment.systemPackages = [
      cfg.package
      # For a look at what it programmed, and at kube-proxy's.
      pkgs.conntrack-tools
      pkgs.ipvsadm
    ]
    ++ cfg.build.tools;
  };

  options.services.smartnat.build.tools = lib.mkOption {
    internal = true;
    readOnly = true;
    type = lib.types.listOf lib.types.package;
    default = [
      pkgs.iptables
      pkgs.ipset
      # Reads what others do in nftables.
      pkgs.nftables
    ];
    description = "The kernel tools of the daemon.";
  };
}
