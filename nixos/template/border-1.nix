# All options: docs/nixos-options.md of SmartNat.
{
  nixpkgs.hostPlatform = "x86_64-linux";
  networking.hostName = "border-1";

  services.smartnat = {
    enable = true;
    interfaces.gateway = {
      name = "lan0";
      # ip link show: the hardware address of the card towards the cluster.
      mac = "52:54:00:00:00:01";
      dhcp = true;
    };
    interfaces.external.wan0 = {
      # The card towards the Internet.
      mac = "52:54:00:00:01:01";
      prefix = "203.0.113.0/24";
      addresses = [ "203.0.113.10" ];
    };
  };

  services.openssh = {
    enable = true;
    openFirewall = false;
    settings.PasswordAuthentication = false;
  };
  networking.firewall.interfaces.lan0.allowedTCPPorts = [ 22 ];
  users.users.root.openssh.authorizedKeys.keys = [
    # "ssh-ed25519 …"
  ];

  system.stateVersion = "26.05";
}
