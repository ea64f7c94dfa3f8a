# tests/demo.sh with everything that it calls.
{
  lib,
  writeShellApplication,
  demoPrograms,
  conntrack-tools,
  coreutils,
  curl,
  diffutils,
  gawk,
  gnugrep,
  gnused,
  iproute2,
  ipset,
  iptables,
  nftables,
  procps,
  runtimeShell,
  util-linux,
}:
let
  root = ../..;
  scripts = lib.fileset.toSource {
    inherit root;
    fileset = lib.fileset.unions [
      (root + "/tests/demo.sh")
      (root + "/tests/prepare.sh")
      (root + "/docs/examples")
    ];
  };
in
writeShellApplication {
  name = "smartnat-demo";
  runtimeInputs = [
    conntrack-tools
    coreutils
    curl
    diffutils
    gawk
    gnugrep
    gnused
    iproute2
    ipset
    iptables
    nftables
    procps
    util-linux
  ];
  text = ''
    export SMARTNAT_DEMO_PROGRAMS=${demoPrograms}/bin
    exec ${runtimeShell} ${scripts}/tests/demo.sh "$@"
  '';
  meta.description = "Shows SmartNat at work in network namespaces of this machine; needs root";
}
