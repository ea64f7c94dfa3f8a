# What the images promise, judged on what they are evaluated to: a list of complaints, empty where all is well.
{ lib, images }:
let
  disks = [
    "ami"
    "qcow2"
    "raw-efi"
  ];
  inside = "eth0";
  agetty = [
    "getty@"
    "autovt@"
    "serial-getty@"
    "serial-getty@ttyS0"
    "console-getty"
  ];

  promises =
    name: config:
    let
      inherit (config.services) openssh;
      inherit (config.networking) firewall;
      passwords = lib.filterAttrs (
        _: user:
        !lib.elem user.hashedPassword [
          null
          "!"
        ]
        || lib.any (kind: user.${kind} != null) [
          "password"
          "initialPassword"
          "initialHashedPassword"
          "hashedPasswordFile"
        ]
      ) config.users.users;
      prompts = lib.filter (
        unit: config.systemd.services ? ${unit} && config.systemd.services.${unit}.enable
      ) agetty;
      opened = lib.filterAttrs (
        _: interface: interface.allowedTCPPorts != [ ] || interface.allowedTCPPortRanges != [ ]
      ) firewall.interfaces;
    in
    {
      "it serves" = config.services.smartnat.enable && config.services.smartnat.provision.enable;
      "nobody has a password" = passwords == { };
      "nobody is asked for one on a console" =
        prompts == [ ] && config.services.getty.autologinUser == null;
      "ssh takes keys alone" =
        !openssh.settings.PasswordAuthentication
        && !openssh.settings.KbdInteractiveAuthentication
        && openssh.settings.PermitRootLogin == "prohibit-password";
      "the host firewall opens ssh on the cluster's side, and nothing else anywhere" =
        firewall.enable
        && firewall.allowedTCPPorts == [ ]
        && firewall.allowedUDPPorts == [ ]
        && lib.attrNames opened == [ inside ]
        && opened.${inside}.allowedTCPPorts == openssh.ports;
      "nobody else's programs run at its start" =
        !(config.services.amazon-ssm-agent.enable or false)
        && !(config.virtualisation.amazon-init.enable or false)
        && !config.services.cloud-init.enable;
      "a stick boots it, by UEFI" =
        name == "iso" -> config.isoImage.makeEfiBootable && config.isoImage.makeUsbBootable;
      "its clock is kept" = config.services.chrony.enable || config.services.timesyncd.enable;
      "forwarding is the daemon's" = !(config.boot.kernel.sysctl ? "net.ipv4.ip_forward");
      "kernel and systemd speak on the serial console" =
        lib.last (lib.filter (lib.hasPrefix "console=") config.boot.kernelParams)
        == "console=ttyS0,115200n8";
      "the journal is bounded" = lib.hasInfix "SystemMaxUse=" config.services.journald.extraConfig;
      "the store is read-only, and nix is not there" =
        lib.elem "ro" config.boot.nixStoreMountOpts && !config.nix.enable;
      # nixos/lib/make-disk-image.nix calls it.
      "the builder finds what installs the boot loader" =
        lib.elem name disks -> config.system.switch.enable;
    };
in
lib.concatLists (
  lib.mapAttrsToList (
    name: image:
    lib.mapAttrsToList (promise: _: "${name}: not so: ${promise}") (
      lib.filterAttrs (_: kept: !kept) (promises name image.passthru.config)
    )
  ) images
)
