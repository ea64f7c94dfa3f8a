{
  description = "SmartNat: a Kubernetes border router, as an appliance of NixOS";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    crane.url = "github:ipetkov/crane";
  };

  outputs = inputs: import ./nixos { inherit inputs; };
}
