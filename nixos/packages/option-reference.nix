# docs/nixos-options.md: the options of services.smartnat, from their declarations.
{ pkgs }:
let
  inherit (pkgs) lib;
  evaluated = lib.evalModules {
    modules = [
      ../module/options.nix
      ../module/interface-options.nix
      { _module.args = { inherit pkgs; }; }
    ];
  };
  options = lib.filter (option: option.visible && !option.internal) (
    lib.optionAttrSetToDocList evaluated.options.services
  );
  value =
    literal:
    if literal._type or null == "literalMD" then
      " ${literal.text}"
    else if literal._type or null == "literalExpression" then
      code literal.text
    else
      code (lib.generators.toPretty { } literal);
  code =
    text:
    if lib.hasInfix "\n" text then
      "\n\n  ```nix\n  ${lib.replaceStrings [ "\n" ] [ "\n  " ] (lib.trim text)}\n  ```"
    else
      " `${text}`";
  section =
    option:
    lib.concatStringsSep "\n" (
      [
        "## ${lib.replaceStrings [ "<" ">" ] [ "\\<" "\\>" ] option.name}"
        ""
        (lib.trim option.description)
        ""
        "- Type: ${option.type}"
      ]
      ++ lib.optional (option ? default) "- Default:${value option.default}"
      ++ lib.optional (option ? example) "- Example:${value option.example}"
      ++ [ "" ]
    );
in
pkgs.writeText "nixos-options.md" ''
  # Options of services.smartnat

  Made from the module's declarations (`nix build .#option-reference`); [nixos.md](nixos.md) tells how they belong together.

  ${lib.concatStringsSep "\n" (map section options)}''
