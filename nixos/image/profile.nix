# The appliance: a box that is nothing but a border router. Everything about the hardware and the disk is the image variant's.
{
  config,
  lib,
  modulesPath,
  pkgs,
  ...
}:
let
  cfg = config.services.smartnat;
  inside =
    if cfg.interfaces.cluster != null then cfg.interfaces.cluster.name else cfg.interfaces.gateway.name;
in
{
  imports = [
    # Small, without nix: another image is another version.
    (modulesPath + "/profiles/image-based-appliance.nix")
  ];

  # What a machine is given at boot, since an image does not know where it will run.
  services.smartnat = {
    enable = true;
    provision.enable = true;
    interfaces.gateway.dhcp = lib.mkDefault true;
    # Whatever comes after eth0, in the order of the slots; *.network files that the machine is given come first.
    interfacesPattern = lib.mkDefault "eth[1-9][0-9]*";
  };
  networking = {
    usePredictableInterfaceNames = lib.mkDefault false;
    # What the machine is given, or its metadata service says; else one of its own (module/provision.sh).
    hostName = lib.mkDefault "";
    firewall = {
      enable = lib.mkDefault true;
      # SSH answers on the cluster's side alone: the border closes the other, and the host firewall does, too.
      interfaces.${inside}.allowedTCPPorts =
        lib.mkIf config.services.openssh.enable config.services.openssh.ports;
      logRefusedConnections = lib.mkDefault false;
    };
  };
  systemd.network.networks."90-smartnat-external" = lib.mkIf cfg.interfaces.manage (
    cfg.build.externalNetwork "eth*" {
      dhcp = true;
      mtu = null;
      addresses = [ ];
      routed = [ ];
    }
  );

  # Nobody logs in by default: no password anywhere, no getty that would ask for one, keys for SSH only where somebody gives them.
  users.allowNoPasswordLogin = true;
  users.users.root.hashedPassword = "!";
  services.openssh = {
    enable = lib.mkDefault true;
    openFirewall = false;
    settings = {
      PermitRootLogin = lib.mkForce "prohibit-password";
      PasswordAuthentication = false;
      KbdInteractiveAuthentication = false;
      X11Forwarding = false;
      AllowTcpForwarding = false;
    };
  };
  systemd.services."getty@".enable = lib.mkDefault false;
  systemd.services."autovt@".enable = lib.mkDefault false;
  systemd.services."serial-getty@".enable = lib.mkDefault false;
  # Kernel and systemd speak on the serial console all the same.
  boot.kernelParams = [
    "console=tty0"
  ]
  # QEMU's there; Amazon's is as everywhere.
  ++ lib.optional pkgs.stdenv.hostPlatform.isAarch64 "console=ttyAMA0"
  ++ [ "console=ttyS0,115200n8" ];
  # Emergency mode would wait for a password that nobody has.
  systemd.enableEmergencyMode = false;
  boot.initrd.systemd.emergencyAccess = lib.mkForce false;
  # A kernel that cannot go on starts again; the border is closed before the network is up.
  boot.kernel.sysctl."kernel.panic" = lib.mkDefault 10;

  services.journald.extraConfig = ''
    SystemMaxUse=256M
    RuntimeMaxUse=64M
    MaxRetentionSec=1month
    ForwardToConsole=no
  '';
  systemd.coredump.enable = false;

  # What nobody misses on a border.
  documentation.enable = lib.mkForce false;
  environment.defaultPackages = lib.mkForce [ ];
  programs.nano.enable = lib.mkDefault false;
  boot.enableContainers = false;
  security.polkit.enable = lib.mkDefault false;
  hardware.enableRedistributableFirmware = lib.mkDefault false;
  # A config drive may be any of these.
  boot.supportedFilesystems = [ "vfat" ];
  boot.kernelModules = [ "isofs" ];

  environment.systemPackages = [ pkgs.tcpdump ];

  system.stateVersion = lib.mkDefault config.system.nixos.release;
}
