# What all machines from the image have in common; kubeconfigs and addresses come at boot.
{
  nixpkgs.hostPlatform = "x86_64-linux";
  services.smartnat.border.openings = [ "icmp-echo" ];
  users.users.root.openssh.authorizedKeys.keys = [
    # "ssh-ed25519 …"
  ];
}
