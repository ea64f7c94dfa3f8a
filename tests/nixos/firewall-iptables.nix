# The host firewall of NixOS with its iptables backend: mapped traffic passes, everything else of the box stays closed.
base: import ./firewall.nix base { nftables = false; }
