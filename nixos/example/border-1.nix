# A box on bare metal: the cluster behind lan0, two providers in front.
{
  nixpkgs.hostPlatform = "x86_64-linux";
  networking.hostName = "border-1";

  services.smartnat = {
    enable = true;

    interfaces.gateway = {
      name = "lan0";
      mac = "52:54:00:00:00:01";
      addresses = [ "10.0.0.2/24" ];
      router = "10.0.0.1";
      # The pods, by a router of the cluster's network.
      routes = [
        {
          destination = "10.244.0.0/16";
          gateway = "10.0.0.1";
        }
      ];
    };
    interfaces.external = {
      wan0 = {
        mac = "52:54:00:00:01:01";
        prefix = "203.0.113.0/24";
        addresses = [
          "203.0.113.10"
          "203.0.113.11"
        ];
      };
      wan1 = {
        mac = "52:54:00:00:01:02";
        prefix = "198.51.100.0/24";
        addresses = [ "198.51.100.10" ];
        gatewayOffset = -1;
      };
    };
    monitor.address = "10.0.0.2";
  };

  # Only the cluster's side is asked for figures, and for a shell.
  networking.firewall.interfaces.lan0.allowedTCPPorts = [
    22
    8080
  ];
  services.openssh = {
    enable = true;
    openFirewall = false;
    settings.PasswordAuthentication = false;
  };

  # Where it is installed: what nixos-generate-config writes into hardware-configuration.nix.
  boot.loader.systemd-boot.enable = true;
  boot.loader.efi.canTouchEfiVariables = true;
  fileSystems."/" = {
    device = "/dev/disk/by-label/nixos";
    fsType = "ext4";
  };
  fileSystems."/boot" = {
    device = "/dev/disk/by-label/boot";
    fsType = "vfat";
  };
  system.stateVersion = "26.05";
}
