# What each form of the image needs beside the profile.
{
  config,
  lib,
  modulesPath,
  pkgs,
  ...
}:
let
  # The name of the file. The iso's form sets one plainly; a user's mkForce still wins.
  named = form: {
    image.baseName = lib.mkOverride 75 "smartnat-${config.services.smartnat.package.version}-${form}-${pkgs.stdenv.hostPlatform.system}";
  };
  virtual = modulesPath + "/profiles/qemu-guest.nix";
  # Servers' disk controllers in the initrd, and what network cards load.
  bareMetal.hardware = {
    enableAllHardware = true;
    enableRedistributableFirmware = true;
  };
  # The builder of a disk installs the boot loader by the system's own switch-to-configuration, which the profile leaves out.
  bootLoaderIsInstalled.system.switch.enable = lib.mkForce true;
  # As nixpkgs' virtualisation/disk-image.nix, but without its copy of all of nixpkgs, which nobody evaluates on a box without nix.
  disk =
    { config, pkgs, ... }:
    {
      imports = [ bootLoaderIsInstalled ];
      system.build.image = lib.mkForce (
        import (modulesPath + "/../lib/make-disk-image.nix") {
          inherit lib config pkgs;
          inherit (config.virtualisation) diskSize;
          inherit (config.image) baseName format;
          partitionTableType = "efi";
          copyChannel = false;
        }
      );
    };
in
{
  image.modules = {
    # Neither has virtio in its initrd by itself.
    qemu-efi.imports = [
      (named "efi")
      virtual
      disk
    ];
    raw-efi = {
      imports = [
        (named "efi")
        virtual
        disk
        bareMetal
      ];
    };
    iso = {
      imports = [
        (named "live")
        bareMetal
      ];
      # By themselves a CD that boots by BIOS: no UEFI, no USB stick, and on aarch64 nothing at all.
      isoImage = {
        makeEfiBootable = true;
        makeUsbBootable = true;
        appendToMenuLabel = "";
      };
    };
    amazon = {
      imports = [
        (named "amazon")
        bootLoaderIsInstalled
      ];
      # A way in that nobody asked for.
      services.amazon-ssm-agent.enable = lib.mkForce false;
      # It runs user data that begins with #! as root, and nixos-rebuild with the rest. Here user data is data.
      virtualisation.amazon-init.enable = false;
      services.smartnat.time.daemon = "chrony";
      systemd.services = {
        "serial-getty@ttyS0".enable = lib.mkForce false;
        # An instance goes by the host name, which the metadata service tells.
        smartnat.after = [ "apply-ec2-data.service" ];
        # Asked for at every boot, with minutes of patience; a box that was told already does not need it.
        fetch-ec2-metadata.serviceConfig.TimeoutStartSec = 45;
      };
    };
  };
}
