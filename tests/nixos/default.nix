# The scenarios, as tests by name. Each boots machines of its own: a real API server, kube-proxy, kernel and systemd.
{
  pkgs,
  smartnatModule,
  packages,
}:
let
  base = import ./base.nix { inherit pkgs smartnatModule packages; };
in
{
  mode-service = import ./mode-service.nix base;
  mode-direct = import ./mode-direct.nix base;
  same-subnet = import ./same-subnet.nix base;
  border-scan = import ./border-scan.nix base;
  masquerade-off = import ./masquerade-off.nix base;
  pod-egress-snat = import ./pod-egress-snat.nix base;
  restarts = import ./restarts.nix base;
  reboot = import ./reboot.nix base;
  two-boxes = import ./two-boxes.nix base;
  qcow2 = import ./qcow2.nix base;
  firewall-iptables = import ./firewall-iptables.nix base;
  firewall-nftables = import ./firewall-nftables.nix base;
}
