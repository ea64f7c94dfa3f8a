# The container of deploy/daemonset: the daemon and the kernel tools that it calls, nothing else.
{
  lib,
  dockerTools,
  buildEnv,
  smartnat-manager,
  iptables,
  ipset,
  nftables,
}:
dockerTools.buildLayeredImage {
  name = "smartnat-manager";
  tag = smartnat-manager.version;
  contents = [
    dockerTools.caCertificates
    # The DaemonSet closes the border by a line of shell.
    dockerTools.binSh
    (buildEnv {
      name = "smartnat-tools";
      paths = [
        smartnat-manager
        iptables
        ipset
        nftables
      ];
      pathsToLink = [ "/bin" ];
    })
  ];
  # machine-id is a mount point; the id is the host's.
  extraCommands = "mkdir -p etc run/smartnat && touch etc/machine-id";
  config = {
    Entrypoint = [ (lib.getExe smartnat-manager) ];
    Env = [ "PATH=/bin" ];
    Labels = {
      "org.opencontainers.image.title" = "smartnat-manager";
      "org.opencontainers.image.version" = smartnat-manager.version;
      "org.opencontainers.image.licenses" = "Apache-2.0";
    };
  };
}
