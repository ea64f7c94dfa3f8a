//! The program as people call it: unprivileged, on files alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The user and group `nobody` of every Linux.
const NOBODY: u32 = 65_534;

/// A directory that everybody may read, with the program and the examples of the documentation.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        fs::set_permissions(place.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = fs::read(env!("CARGO_BIN_EXE_smartnat-manager")).unwrap();
        bed::write_executable(&place.path("smartnat-manager"), program);
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples");
        fs::create_dir(place.path("manifests")).unwrap();
        for entry in fs::read_dir(examples.join("manifests")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), place.path("manifests").join(entry.file_name())).unwrap();
        }
        fs::copy(examples.join("host.yaml"), place.path("host.yaml")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs it as nobody, where root runs the tests, with nothing in its environment but PATH.
    fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().expect("the program starts")
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(self.path("smartnat-manager"));
        command.current_dir(self.0.path()).args(arguments.split_whitespace());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        if nix::unistd::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        // Not what this machine has in /etc/smartnat.
        command.env("SNCTRLR_ENV_FILE", "");
        command
    }

    fn on_files(&self, arguments: &str) -> Output {
        self.run(&format!(
            "{arguments} --manifests manifests --host host.yaml --default-gw-interface eth0 --interfaces-pattern eth[1-9]"
        ))
    }
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_plan_is_made_from_files_by_anybody() {
    let plan = said(&Place::new().on_files("plan"));
    for part in ["default/web  programmed", "--to-destination 10.244.1.2:8080", "-A SMARTNAT-BORDER -j DROP"] {
        assert!(plan.contains(part), "{part} is missing in\n{plan}");
    }
}

#[test]
fn a_trace_names_the_mapping_whether_it_allows_the_source_or_not() {
    let place = Place::new();
    let trace = |source: &str, port: &str| {
        let packet = format!("trace --source {source} --destination 203.0.113.10 --port {port} --interface eth1");
        said(&place.on_files(&packet))
    };
    let allowed = trace("192.0.2.10", "80");
    let named = "\nMapping: default/web:tcp/80\n";
    assert!(allowed.contains(named) && allowed.contains("\nVerdict: forwarded to one of 10.244.1.2:8080"), "{allowed}");
    let refused = trace("198.18.0.1", "80");
    assert!(
        refused.contains(named) && refused.contains("allowedSources") && refused.contains("\nVerdict: dropped"),
        "{refused}"
    );
    let unmapped = trace("192.0.2.10", "81");
    assert!(!unmapped.contains("\nMapping:") && unmapped.contains("\nVerdict: dropped"), "{unmapped}");
}

#[test]
fn a_broken_file_is_named_with_its_line_and_ends_a_plan() {
    let place = Place::new();
    fs::write(place.path("manifests/broken.yaml"), "kind: Service\nmetadata: {name: [}\n").unwrap();
    let output = place.on_files("plan");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(message.contains("broken.yaml:2"), "{message}");
}

#[test]
fn all_bad_settings_are_named_at_once() {
    let output =
        Place::new().run("run --monitor-port 99999 --gw-address-offset 0 --setup-snat maybe --interfaces-pattern (");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    for name in ["MONITOR_PORT", "GW_ADDRESS_OFFSET", "SETUP_SNAT", "INTERFACES_PATTERN", "DEFAULT_GW_INTERFACE"] {
        assert!(message.contains(&format!("SNCTRLR_{name}")), "{name} is missing in {message}");
    }
}

#[test]
fn a_command_by_hand_takes_its_settings_from_the_settings_file_behind_flags_and_environment() {
    let place = Place::new();
    fs::write(
        place.path("box.env"),
        "# of this box\nSNCTRLR_DEFAULT_GW_INTERFACE=eth0\nSNCTRLR_INTERFACES_PATTERN='eth[1-9]'\nSNCTRLR_SETUP_SNAT=maybe\n",
    )
    .unwrap();
    let plan = |flags: &str, environment: &[(&str, &str)]| {
        let mut command = place.command(&format!("plan --manifests manifests --host host.yaml {flags}"));
        command.env("SNCTRLR_ENV_FILE", "box.env").envs(environment.iter().copied()).output().unwrap()
    };
    let bad = plan("", &[]);
    let message = String::from_utf8_lossy(&bad.stderr);
    assert_eq!(bad.status.code(), Some(2), "{bad:?}");
    assert!(message.contains("SNCTRLR_SETUP_SNAT") && message.contains("\"maybe\""), "{message}");
    for good in [plan("--setup-snat false", &[]), plan("", &[("SNCTRLR_SETUP_SNAT", "false")])] {
        assert!(said(&good).contains("default/web  programmed"), "{good:?}");
    }
    fs::remove_file(place.path("box.env")).unwrap();
    let missing = plan("", &[]);
    assert_eq!(missing.status.code(), Some(2), "{missing:?}");
    assert!(
        String::from_utf8_lossy(&missing.stderr).contains("the settings file box.env cannot be read"),
        "{missing:?}"
    );
}

#[test]
fn without_a_source_of_objects_the_daemon_says_how_to_name_one() {
    let output = Place::new().run("--default-gw-interface eth0 --interfaces-pattern eth[1-9]");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(message.contains("--manifests DIR") && message.contains("SNCTRLR_MANIFESTS"), "{message}");
}

/// Names of the subcommands, as `--help` lists them.
fn subcommands(place: &Place) -> Vec<String> {
    let help = place.run("--help");
    let help = String::from_utf8(help.stdout).unwrap();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn completions_know_every_subcommand_and_are_the_shells_own_language() {
    let place = Place::new();
    let names = subcommands(&place);
    assert!(names.len() > 5, "{names:?}");
    for shell in ["bash", "fish", "zsh"] {
        let output = place.run(&format!("completions {shell}"));
        assert!(output.status.success());
        let script = String::from_utf8(output.stdout).unwrap();
        for name in &names {
            assert!(script.contains(name.as_str()), "{shell}: no {name}");
        }
        if shell == "bash" {
            let path = place.path("completions.bash");
            fs::write(&path, &script).unwrap();
            assert!(Command::new("bash").arg("-n").arg(&path).status().unwrap().success());
        }
    }
}

#[test]
fn every_subcommand_has_a_manual_page() {
    let place = Place::new();
    let pages = place.path("man");
    fs::create_dir(&pages).unwrap();
    fs::set_permissions(&pages, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(place.run("man --directory man").status.success());
    for name in subcommands(&place) {
        let page = fs::read_to_string(pages.join(format!("smartnat-manager-{name}.1"))).expect(&name);
        assert!(page.contains(&format!(".TH smartnat-manager-{name} 1")), "{page}");
        assert!(page.contains(".SH OPTIONS"), "{page}");
    }
    let main = fs::read_to_string(pages.join("smartnat-manager.1")).unwrap();
    assert_eq!(main.as_bytes(), place.run("man").stdout);
    assert!(main.contains(r"\-\-interfaces\-pattern"));

    let refused = place.run("man --directory missing");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("missing/smartnat-manager-run.1"));
}
