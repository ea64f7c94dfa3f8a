# The images of one system, by their names as packages.
{
  nixpkgs,
  smartnatModule,
  system,
}:
let
  appliance = nixpkgs.lib.nixosSystem {
    modules = [
      smartnatModule
      ./profile.nix
      ./variants.nix
      { nixpkgs.hostPlatform = system; }
    ];
  };
  inherit (appliance.config.system.build) images;
in
{
  ami = images.amazon;
  qcow2 = images.qemu-efi;
  inherit (images) raw-efi iso;
}
