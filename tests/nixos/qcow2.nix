# The image itself: it boots from a copy-on-write overlay of the qcow2, finds its kubeconfigs, its name and its networks on a config drive,
# and serves. Nobody logs in, so that everything is seen from outside, and on its serial console.
{
  scenario,
  kubeconfig,
  packages,
  pkgs,
  lib,
  ...
}:
let
  qemu = import (pkgs.path + "/nixos/lib/qemu-common.nix") { inherit (pkgs) lib stdenv; };

  network =
    name: address: more:
    pkgs.writeText "${name}.network" ''
      [Match]
      Name=${name}
      [Network]
      LinkLocalAddressing=no
      IPv6AcceptRA=no
      [Address]
      Address=${address}
      ${more}
    '';
  files = {
    "smartnat.kubeconfig" = pkgs.writeText "kubeconfig" kubeconfig;
    "kube-proxy.kubeconfig" = pkgs.writeText "kubeconfig" kubeconfig;
    "smartnat.env" = pkgs.writeText "smartnat.env" "SNCTRLR_INSTANCE_NAME=from-the-drive\n";
    "05-eth0.network" = network "eth0" "10.0.0.2/24" ''
      [Route]
      Gateway=10.0.0.1
      [Route]
      Destination=10.244.1.0/24
      Gateway=10.0.0.21
      [Route]
      Destination=10.244.2.0/24
      Gateway=10.0.0.22
    '';
    "05-eth1.network" = network "eth1" "203.0.113.10/24" "RouteMetric=4096";
    "05-eth2.network" = network "eth2" "198.51.100.10/24" "RouteMetric=4096";
  };
  drive = pkgs.runCommand "config-drive.iso" { nativeBuildInputs = [ pkgs.xorriso ]; } ''
    mkdir drive
    ${lib.concatStringsSep "\n" (lib.mapAttrsToList (name: file: "cp ${file} drive/${name}") files)}
    xorriso -as mkisofs -volid SMARTNAT -joliet -rock -o $out drive
  '';

  # The machine without its disks.
  start = lib.concatStringsSep " " (
    [
      "${qemu.qemuBinary pkgs.qemu_test} -m 1024 -smp 2"
      "-drive if=pflash,format=raw,unit=0,readonly=on,file=${pkgs.OVMF.firmware}"
    ]
    ++ lib.concatMap (vlan: qemu.qemuNICFlags vlan vlan 99) [
      1
      2
      3
    ]
  );
in
scenario {
  name = "qcow2";
  nodes.box = null;
  script = ''
    import os
    import subprocess
    import tempfile

    directory = tempfile.mkdtemp()
    disk = os.path.join(directory, "disk.qcow2")
    variables = os.path.join(directory, "variables.fd")
    subprocess.run(
        ["${pkgs.qemu_test}/bin/qemu-img", "create", "-f", "qcow2", "-F", "qcow2",
         "-b", "${packages.qcow2}/${packages.qcow2.passthru.filePath}", disk, "8G"],
        check=True,
    )
    subprocess.run(["install", "-m", "0600", "${pkgs.OVMF.variables}", variables], check=True)
    start = (
        ${builtins.toJSON start}
        + f" -drive if=pflash,format=raw,unit=1,file={variables}"
        + f" -drive if=virtio,format=qcow2,file={disk}"
    )
    first = create_machine(start + " -drive if=virtio,format=raw,readonly=on,file=${drive}", name="image")
    # The same disk, and no drive.
    again = create_machine(start, name="image-again")

    start_cluster()
    apply(service(node_port=True), endpoints("10.244.1.2", "10.244.2.2"), mapping())
    # The driver ends only the machines that it made itself, and waits for the others for ever.
    try:
        first.start()
        served(client1, ALLOWED, WAN0, timeout=600)
        mapped_traffic_is_served("service")
        closed(client1, ALLOWED, WAN0, 30080)
        closed(client1, ALLOWED, WAN0, 22)
        until("the instance has the name of the drive", lambda: "from-the-drive" in kubectl("get mapping web -o json"))

        # SSH listens towards the cluster, and takes no password.
        cp.succeed(
            "(ssh -v -o BatchMode=yes -o StrictHostKeyChecking=no root@10.0.0.2 2>&1 || true)"
            " | grep -F 'Permission denied (publickey)'"
        )
    finally:
        first.crash()

    # What the drive gave is kept: after a power cut the image serves without it.
    try:
        again.start()
        served(client1, ALLOWED, WAN0, timeout=600)
        mapped_traffic_is_served("service")
    finally:
        again.crash()
  '';
}
