# What each form of the image needs beside the profile.
{ lib, modulesPath, ... }:
let
  virtual = modulesPath + "/profiles/qemu-guest.nix";
  # The builder of a disk installs the boot loader by the system's own switch-to-configuration, which the profile leaves out.
  bootLoaderIsInstalled.system.switch.enable = lib.mkForce true;
in
{
  image.modules = {
    # Neither has virtio in its initrd by itself.
    qemu-efi.imports = [
      virtual
      bootLoaderIsInstalled
    ];
    raw-efi = {
      imports = [
        virtual
        bootLoaderIsInstalled
      ];
      # For bare metal, too.
      hardware.enableRedistributableFirmware = true;
    };
    iso.hardware.enableRedistributableFirmware = true;
    amazon = {
      imports = [ bootLoaderIsInstalled ];
      # A way in that nobody asked for.
      services.amazon-ssm-agent.enable = lib.mkForce false;
      # It runs user data that begins with #! as root, and nixos-rebuild with the rest. Here user data is data.
      virtualisation.amazon-init.enable = false;
      systemd.services."serial-getty@ttyS0".enable = lib.mkForce false;
      services.smartnat.time.daemon = "chrony";
    };
  };
}
