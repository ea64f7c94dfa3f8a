# Evaluates the cases: a good one meets no assertion, and a bad one exactly that which its message belongs to. Gives a list of what is
# wrong, empty where all is well; each entry names its case.
{ nixpkgs, smartnatModule }:
let
  inherit (nixpkgs) lib;
  cases = import ./cases.nix { inherit lib; };

  soundBox = {
    nixpkgs.hostPlatform = "x86_64-linux";
    system.stateVersion = "26.05";
    boot.loader.grub.enable = false;
    networking.usePredictableInterfaceNames = false;
    fileSystems."/" = {
      device = "/dev/disk/by-label/nixos";
      fsType = "ext4";
    };
    services.smartnat = {
      enable = true;
      interfaces.gateway = {
        addresses = [ "10.0.0.2/24" ];
        router = "10.0.0.1";
      };
      interfaces.external.wan0 = {
        mac = "52:54:00:00:01:01";
        prefix = "203.0.113.0/24";
        addresses = [ "203.0.113.10" ];
      };
    };
  };
  evaluate =
    config:
    (lib.nixosSystem {
      modules = [
        smartnatModule
        soundBox
        config
      ];
    }).config;
  refusals =
    config:
    map (refused: refused.message) (
      lib.filter (assertion: !assertion.assertion) (evaluate config).assertions
    );
  doubts =
    config:
    lib.filter (warning: lib.hasInfix "smartnat" (lib.toLower warning)) (evaluate config).warnings;

  judgeGood =
    name: config:
    let
      evaluated = evaluate config;
      refused = map (assertion: assertion.message) (lib.filter (a: !a.assertion) evaluated.assertions);
      # Forces what a box is made of, so that more than its assertions is seen to evaluate.
      made = builtins.tryEval (
        builtins.deepSeq evaluated.services.smartnat.build.units evaluated.system.build.toplevel.drvPath
      );
    in
    map (message: "${name}: refused: ${message}") refused
    ++ map (message: "${name}: doubted: ${message}") (doubts config)
    ++ lib.optional (refused == [ ] && !made.success) "${name}: does not evaluate";

  # What is said of a case is what it expects, and nothing else.
  judge =
    said: what: name:
    { config, message }:
    let
      messages = said config;
      others = lib.filter (other: !lib.hasInfix message other) messages;
    in
    lib.optional (messages == [ ]) "${name}: not ${what}; expected: ${message}"
    ++ map (other: "${name}: ${what} for something else: ${other}") others;
in
{
  complaints =
    lib.concatLists (lib.mapAttrsToList judgeGood cases.good)
    ++ lib.concatLists (lib.mapAttrsToList (judge doubts "doubted") cases.doubtful)
    ++ lib.concatLists (lib.mapAttrsToList (judge refusals "refused") cases.bad);
  count = lib.length (lib.concatMap lib.attrNames (lib.attrValues cases));
}
