# The flake's outputs.
#
# lib/       what needs no nixpkgs
# module/    services.smartnat
# packages/  the daemon, kube-proxy, the container
# image/     the appliance's profile and its forms
# example/   a box, as its operator would write it
# template/  a flake for a user's own box
# checks.nix what nix flake check runs, with the virtual machines of tests/nixos
{ inputs }:
let
  inherit (inputs) self nixpkgs crane;
  inherit (nixpkgs) lib;

  systems = [
    "x86_64-linux"
    "aarch64-linux"
  ];
  forEachSystem = make: lib.genAttrs systems (system: make system nixpkgs.legacyPackages.${system});

  crate = pkgs: pkgs.callPackage ./packages/smartnat-manager.nix { craneLib = crane.mkLib pkgs; };

  # The module with the packages that belong to it.
  smartnatModule =
    { lib, pkgs, ... }:
    {
      key = "smartnat";
      imports = [ ./module ];
      services.smartnat.package =
        lib.mkDefault
          self.packages.${pkgs.stdenv.hostPlatform.system}.smartnat-manager;
    };

  boxes = import ./example { inherit nixpkgs smartnatModule; };
in
{
  nixosModules = {
    default = smartnatModule;
    # The image's profile: to build images with one's own settings.
    appliance.imports = [
      smartnatModule
      ./image/profile.nix
      ./image/variants.nix
    ];
  };

  nixosConfigurations = boxes;

  packages = forEachSystem (
    system: pkgs:
    let
      images = import ./image { inherit nixpkgs smartnatModule system; };
    in
    {
      default = self.packages.${system}.smartnat-manager;
      smartnat-manager = (crate pkgs).package;
      kube-proxy = pkgs.callPackage ./packages/kube-proxy.nix { };
      oci-image = pkgs.callPackage ./packages/oci-image.nix {
        inherit (self.packages.${system}) smartnat-manager;
      };
      option-reference = import ./packages/option-reference.nix { inherit pkgs; };
    }
    // images
  );

  apps = forEachSystem (
    _: pkgs:
    let
      demo = pkgs.callPackage ./packages/demo.nix { inherit (crate pkgs) demoPrograms; };
    in
    {
      demo = {
        type = "app";
        program = lib.getExe demo;
        meta.description = demo.meta.description;
      };
    }
  );

  devShells = forEachSystem (
    _: pkgs: {
      default = (crane.mkLib pkgs).devShell {
        packages = [
          pkgs.cargo-deny
          pkgs.conntrack-tools
          pkgs.deadnix
          pkgs.etcd
          pkgs.iproute2
          pkgs.ipset
          pkgs.iptables
          pkgs.ipvsadm
          pkgs.jq
          pkgs.nixfmt
          pkgs.nftables
          pkgs.shellcheck
          pkgs.statix
          pkgs.tcpdump
        ];
      };
    }
  );

  checks = forEachSystem (
    system: pkgs:
    import ./checks.nix {
      inherit pkgs nixpkgs smartnatModule;
      crate = crate pkgs;
      packages = self.packages.${system};
    }
  );

  # For work on a scenario: nix run .#vm.mode-service.driverInteractive
  legacyPackages = forEachSystem (
    system: pkgs: {
      vm =
        let
          scenarios = import ../tests/nixos {
            inherit pkgs smartnatModule;
            packages = self.packages.${system};
          };
        in
        lib.genAttrs scenarios.names scenarios.test;
    }
  );

  formatter = forEachSystem (_: pkgs: pkgs.nixfmt-tree);

  templates.default = {
    path = ./template;
    description = "A SmartNat box of one's own";
  };
}
