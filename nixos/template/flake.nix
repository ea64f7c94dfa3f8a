{
  description = "A SmartNat box";

  inputs = {
    smartnat.url = "github:DevFactory/smartnat";
    nixpkgs.follows = "smartnat/nixpkgs";
  };

  outputs =
    { nixpkgs, smartnat, ... }:
    {
      # nixos-rebuild switch --flake .#border-1
      nixosConfigurations.border-1 = nixpkgs.lib.nixosSystem {
        modules = [
          smartnat.nixosModules.default
          ./border-1.nix
          # What nixos-generate-config wrote on the box: ./hardware-configuration.nix
        ];
      };

      # nix build .#qcow2: the appliance with your own settings.
      packages.x86_64-linux.qcow2 =
        (nixpkgs.lib.nixosSystem {
          modules = [
            smartnat.nixosModules.appliance
            ./appliance.nix
          ];
        }).config.system.build.images.qemu-efi;
    };
}
