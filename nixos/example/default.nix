# Boxes as their operators would write them.
{ nixpkgs, smartnatModule }:
{
  border-1 = nixpkgs.lib.nixosSystem {
    modules = [
      smartnatModule
      ./border-1.nix
    ];
  };
}
