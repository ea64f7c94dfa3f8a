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
  libfaketime,
  nftables,
  procps,
  stdenv,
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
    libfaketime
    nftables
    procps
    # prepare.sh asks for a linker and for faketime, which the demo itself does not use.
    stdenv.cc
    util-linux
  ];
  text = ''
    export SMARTNAT_DEMO_PROGRAMS=${demoPrograms}/bin
    exec bash ${scripts}/tests/demo.sh "$@"
  '';
  meta.description = "Shows SmartNat at work in network namespaces of this machine; needs root";
}
