# services.smartnat: a border router of a Kubernetes cluster.
#
# settings.nix     what the options say, as the environment files of the units
# units.nix        the units of deploy/systemd, kube-proxy's among them
# provision.nix    first boot: kubeconfigs and settings from outside
# network.nix      interfaces, sysctls, kernel modules
# firewall.nix     the host firewall lets mapped traffic pass
# time.nix         the clock
# assertions.nix   what would not work, said before it is built
{
  imports = [
    ./options.nix
    ./interface-options.nix
    ./settings.nix
    ./units.nix
    ./provision.nix
    ./network.nix
    ./firewall.nix
    ./time.nix
    ./assertions.nix
  ];
}
