//! The files of deploy/ in the eyes of the programs that they are for.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;

use crate::box_tree::{must, repository};

fn run(command: &mut Command, remedy: &str) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; {remedy}"))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A root with the distribution's units, ours, and programs in the places that ours name.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    for dir in ["etc/systemd", "usr/lib/systemd", "usr/local/bin", "usr/bin"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    must(Command::new("cp").args(["-a", "/usr/lib/systemd/system"]).arg(at("usr/lib/systemd/system")));
    must(Command::new("cp").arg("-a").arg(repository().join("deploy/systemd")).arg(at("etc/systemd/system")));
    for program in ["usr/local/bin/smartnat-manager", "usr/local/bin/kube-proxy", "usr/bin/systemctl"] {
        must(Command::new("install").args(["-m", "755", "/bin/true"]).arg(at(program)));
    }
    root
}

fn verify(root: &Path, unit: &str) -> String {
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no", "--recursive-errors=no"]).arg(format!("--root={}", root.display())).arg(unit);
    let said = text(&run(&mut command, "apt-get install systemd"));
    // What it says of other units is the distribution's.
    said.lines().filter(|l| l.contains("smartnat") || l.contains("kube-proxy")).map(|l| format!("{l}\n")).collect()
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let root = root();
    let mut units = 0;
    for entry in fs::read_dir(repository().join("deploy/systemd")).unwrap() {
        let unit = entry.unwrap().file_name().into_string().unwrap();
        assert_eq!(verify(root.path(), &unit), "", "{unit}");
        units += 1;
    }
    assert!(units >= 5, "{units} units");
    // And it would find something.
    let broken = root.path().join("etc/systemd/system/smartnat-broken.service");
    fs::write(broken, "[Service]\nExecStart=/usr/local/bin/smartnat-manager\nRestrat=always\n").unwrap();
    assert!(verify(root.path(), "smartnat-broken.service").contains("Restrat"));
}

#[test]
fn systemd_rates_the_exposure_of_what_runs_without_root_below_2_5() {
    for unit in ["smartnat.service", "smartnat-border.service"] {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager"]).arg(repository().join("deploy/systemd").join(unit));
        let said = text(&run(&mut command, "apt-get install systemd"));
        let level = said.lines().find_map(|l| l.split_once("Overall exposure level for")).expect(&said).1;
        let level: f64 = level.split_whitespace().find_map(|word| word.parse().ok()).expect(&said);
        assert!(level < 2.5, "{unit}: {level}");
    }
}

#[test]
fn shellcheck_finds_nothing_wrong_with_the_scripts() {
    let mut command = Command::new("shellcheck");
    command.args(["deploy/install.sh", "deploy/kubeconfig.sh", "nixos/module/provision.sh"]).current_dir(repository());
    let output = run(&mut command, "apt-get install shellcheck");
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn the_packer_template_is_well_formed_and_names_only_what_is_there() {
    let template = repository().join("deploy/packer/smartnat.pkr.hcl");
    let parser = repository().join("target/tools/bin/hcl2tojson");
    let output =
        run(Command::new(&parser).arg(&template), "tests/run.sh installs it (need_pinned_tools in tests/prepare.sh)");
    assert!(output.status.success(), "{}", text(&output));
    let parsed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names = |kind: &str| -> Vec<String> {
        let blocks = parsed[kind].as_array().unwrap().iter().flat_map(|b| b.as_object().unwrap().keys());
        blocks.map(|name| name.trim_matches('"').to_owned()).collect()
    };
    let (variables, locals) = (names("variable"), names("locals"));
    let source = fs::read_to_string(&template).unwrap();
    let code: String = source.lines().filter(|l| !l.trim_start().starts_with('#')).map(|l| format!("{l}\n")).collect();
    let mut used = 0;
    for (prefix, known) in [("var.", &variables), ("local.", &locals)] {
        for (_, rest) in code.match_indices(prefix).map(|(at, _)| code.split_at(at + prefix.len())) {
            let name: String =
                rest.chars().take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_').collect();
            assert!(known.contains(&name), "{prefix}{name} is not declared; there are {known:?}");
            used += 1;
        }
    }
    assert!(used >= variables.len(), "{used} uses of {variables:?}");
    // The script's options are those that it has.
    let help = text(&run(Command::new("bash").args(["deploy/install.sh", "--help"]).current_dir(repository()), ""));
    let lines = code.lines().filter(|l| l.contains("install.sh") || l.contains("proxy_options ="));
    for option in lines.flat_map(|l| l.split([' ', '"'])).filter(|w| w.starts_with("--")) {
        assert!(help.contains(&format!("{option} ")), "{option} is no option of install.sh");
    }
}

/// `ExecStart=` of kube-proxy.service in words, with the variables that its own `Environment=` lines set.
fn kube_proxy_flags() -> Vec<String> {
    let unit = fs::read_to_string(repository().join("deploy/systemd/kube-proxy.service")).unwrap().replace("\\\n", " ");
    let line = |start: &str| unit.lines().filter_map(|l| l.strip_prefix(start)).map(str::to_owned).collect::<Vec<_>>();
    let mut command = line("ExecStart=").remove(0);
    for (name, value) in line("Environment=").iter().map(|l| l.split_once('=').unwrap()) {
        command = command.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
    }
    command.split_whitespace().skip(1).map(str::to_owned).collect()
}

#[test]
fn kube_proxy_understands_its_flags_as_they_are_meant() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    let mut command = Command::new(crate::box_tree::kube_proxy());
    command.args(kube_proxy_flags()).arg(format!("--write-config-to={}", file.display()));
    let output = run(&mut command, "tests/kube/build.sh builds it");
    assert!(output.status.success(), "{}", text(&output));
    let config: serde_json::Value = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    for (pointer, meant) in [
        ("/mode", json!("ipvs")),
        ("/iptables/masqueradeAll", json!(true)),
        ("/ipvs/strictARP", json!(true)),
        ("/ipvs/tcpTimeout", json!("24h0m0s")),
        ("/clientConnection/kubeconfig", json!("/etc/kubeconfig")),
        ("/nodePortAddresses", json!(["127.0.0.0/8", "::1/128"])),
        ("/healthzBindAddress", json!("127.0.0.1:10256")),
        ("/metricsBindAddress", json!("127.0.0.1:10249")),
        // The table's size is that of sysctl.d.
        ("/conntrack/maxPerCore", json!(0)),
        ("/conntrack/min", json!(0)),
        ("/conntrack/tcpEstablishedTimeout", json!("0s")),
    ] {
        assert_eq!(config.pointer(pointer), Some(&meant), "{pointer}");
    }
}
