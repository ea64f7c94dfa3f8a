# The daemon and what checks its source, by crane: dependencies are built once, apart.
{
  lib,
  craneLib,
  installShellFiles,
}:
let
  root = ../..;
  manifest = builtins.fromTOML (builtins.readFile (root + "/Cargo.toml"));
  inherit (manifest.package) name version;

  src = lib.fileset.toSource {
    inherit root;
    fileset = lib.fileset.unions [
      (root + "/Cargo.toml")
      (root + "/Cargo.lock")
      (root + "/.rustfmt.toml")
      (root + "/deny.toml")
      (root + "/README.md")
      (root + "/src")
      # Read by tests, and by the binary itself.
      (root + "/deploy")
      (root + "/docs")
      # A Nix test that changes does not build the crate again.
      (lib.fileset.difference (root + "/tests") (
        lib.fileset.unions [
          (root + "/tests/nixos")
          (lib.fileset.maybeMissing (root + "/tests/appliance/rendered"))
        ]
      ))
    ];
  };

  common = {
    inherit src version;
    pname = name;
    strictDeps = true;
    # The workspace's other members are the test bed's.
    cargoExtraArgs = "--locked --package ${name}";
  };
  dependencies = craneLib.buildDepsOnly (common // { cargoExtraArgs = "--locked --workspace"; });
in
{
  package = craneLib.buildPackage (
    common
    // {
      cargoArtifacts = dependencies;
      nativeBuildInputs = [ installShellFiles ];

      # All tests that need neither root, a kernel of their own nor a network: a build has none of them. The others run in virtual machines.
      # The one that is left out asks the kernel of a network namespace.
      cargoTestExtraArgs = "--lib --bins --test docs --test plan -- --skip cli::check::features::tests";

      postInstall = ''
        installShellCompletion --cmd ${name} \
          --bash <($out/bin/${name} completions bash) \
          --fish <($out/bin/${name} completions fish) \
          --zsh <($out/bin/${name} completions zsh)
        mkdir man
        $out/bin/${name} man --directory man
        installManPage man/*
      '';

      meta = {
        inherit (manifest.package) description;
        homepage = "https://github.com/DevFactory/smartnat";
        license = lib.licenses.asl20;
        mainProgram = name;
        platforms = lib.platforms.linux;
      };
    }
  );

  # What tests/demo.sh runs.
  demoPrograms = craneLib.buildPackage (
    common
    // {
      pname = "smartnat-demo-programs";
      cargoArtifacts = dependencies;
      cargoExtraArgs = "--locked --package ${name} --bin ${name} --example peer";
      doCheck = false;
      doNotPostBuildInstallCargoBinaries = true;
      installPhaseCommand = "install -D -t $out/bin target/release/${name} target/release/examples/peer";
    }
  );

  checks = {
    clippy = craneLib.cargoClippy (
      common
      // {
        cargoArtifacts = dependencies;
        cargoExtraArgs = "--locked --workspace";
        cargoClippyExtraArgs = "--all-targets -- --deny warnings";
      }
    );
    fmt = craneLib.cargoFmt {
      inherit src version;
      pname = name;
    };
    # Advisories come from a database that a build does not reach.
    deny = craneLib.cargoDeny {
      inherit src version;
      pname = name;
      cargoDenyChecks = "licenses bans sources";
    };
  };
}
