# First boot: kubeconfigs and settings from outside. The work is provision.sh's.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.smartnat;
  inherit (cfg.kubeconfig) source;
  sources = {
    file = [ ];
    credential = [ "credential" ];
    user-data = [ "user-data" ];
    provision = [
      "credential"
      "config-drive"
      "user-data"
    ];
  };
  provision = pkgs.writeShellApplication {
    name = "smartnat-provision";
    runtimeInputs = [
      pkgs.coreutils
      pkgs.diffutils
      pkgs.jq
      pkgs.util-linux
      config.systemd.package
    ];
    text = builtins.readFile ./provision.sh;
  };
  common = {
    environment = {
      SMARTNAT_SOURCES = toString sources.${source};
      SMARTNAT_LABELS = toString cfg.provision.configDriveLabels;
      SMARTNAT_DRIVE_WAIT = toString cfg.provision.configDriveWait;
    };
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
      StateDirectory = "smartnat-provision";
      StateDirectoryMode = "0700";
      UMask = "0077";
      NoNewPrivileges = true;
    };
    restartIfChanged = false;
  };
in
{
  options.services.smartnat.build.provisionDirectory = lib.mkOption {
    internal = true;
    readOnly = true;
    type = lib.types.str;
    default = "/var/lib/smartnat-provision";
    description = "Where provisioning keeps what it took.";
  };

  config = lib.mkIf (cfg.enable && cfg.provision.enable) {
    services.smartnat.kubeconfig.file = lib.mkIf (source != "file") (
      lib.mkDefault "${cfg.build.provisionDirectory}/smartnat.kubeconfig"
    );
    services.smartnat.kubeProxy.kubeconfig.file = lib.mkIf (source != "file") (
      lib.mkDefault "${cfg.build.provisionDirectory}/kube-proxy.kubeconfig"
    );

    # Before the border, which is closed by the settings that came with the machine, and before networkd reads its files.
    systemd.services.smartnat-provision = lib.mkMerge [
      common
      {
        description = "SmartNat: what this machine was given at boot";
        wantedBy = [ "sysinit.target" ];
        unitConfig = {
          DefaultDependencies = false;
          RequiresMountsFor = [ "/var/lib" ];
        };
        after = [
          "local-fs.target"
          "systemd-udev-trigger.service"
        ];
        before = [
          "smartnat-border.service"
          "network-pre.target"
          "systemd-networkd.service"
          "sysinit.target"
          "shutdown.target"
        ];
        conflicts = [ "shutdown.target" ];
        serviceConfig = {
          ExecStart = "${lib.getExe provision} early";
          RuntimeDirectory = "smartnat-provision";
          # The config drive is mounted for this unit alone.
          PrivateMounts = true;
          ImportCredential = [
            "smartnat.*"
            "kube-proxy.*"
          ];
          TimeoutStartSec = cfg.provision.configDriveWait + 60;
        };
      }
    ];

    systemd.services.smartnat-user-data = lib.mkIf (lib.elem "user-data" sources.${source}) (
      lib.mkMerge [
        common
        {
          description = "SmartNat: EC2 user data";
          wantedBy = [ "multi-user.target" ];
          after = [
            "fetch-ec2-metadata.service"
            # It gives the host a name; one that is given here wins.
            "apply-ec2-data.service"
          ];
          before = [
            "smartnat.service"
            "kube-proxy.service"
          ];
          unitConfig.ConditionPathExists = "/etc/ec2-metadata/user-data";
          serviceConfig.ExecStart = "${lib.getExe provision} user-data";
        }
      ]
    );
  };
}
