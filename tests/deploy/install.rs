//! install.sh, short of starting anything.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use crate::box_tree::{BoxTree, Ran, differing, kube_proxy};

const INTERFACES: &str = "--gateway-interface eth0 --interfaces-pattern eth[1-9][0-9]*";

const NOTHING: [PathBuf; 0] = [];
/// An image with a program that calls itself kube-proxy.
const IMAGE: &str = "--no-start --binary given/manager --kube-proxy given/proxy --gateway-interface eth0 --interfaces-pattern eth[1-9][0-9]*";

fn refused(ran: &Ran, part: &str) {
    assert_eq!(ran.code, Some(3), "{part}: {ran:?}");
    assert!(ran.err.contains("refused, nothing was changed") && ran.err.contains(part), "{part}: {ran:?}");
}

#[test]
fn what_cannot_be_installed_is_refused_with_the_reason_and_nothing_is_changed() {
    let tree = BoxTree::new();
    tree.program("given/proxy-1.43", "Kubernetes v1.43.0");
    tree.program("given/other", "something else 1.0");
    fs::write(tree.path("given/script"), "#!/bin/sh\necho smartnat-manager 3.0.0\n").unwrap();
    let mut foreign = fs::read(tree.path("given/other")).unwrap();
    // The machine of an ELF file: SPARC.
    foreign[18..20].copy_from_slice(&[2, 0]);
    fs::write(tree.path("given/foreign"), foreign).unwrap();
    fs::write(tree.path("given/no-kubeconfig"), "hello\n").unwrap();
    let before = tree.snapshot();

    let (binary, none) = ("--binary given/manager", "--no-start --without-kube-proxy");
    let zeros = "0".repeat(64);
    for (arguments, part) in [
        (format!("--without-kube-proxy {binary} {INTERFACES}"), "systemd is not the init here"),
        (format!("{none} {INTERFACES}"), "smartnat-manager is not installed yet: give it by --binary"),
        (format!("--no-start {binary} {INTERFACES}"), "kube-proxy is not installed yet"),
        (format!("{none} --binary given/missing"), "no such file"),
        (format!("{none} --binary given/script"), "this is no program (ELF)"),
        (format!("{none} --binary given/foreign"), "it is for another machine"),
        (format!("{none} --binary given/other"), "it calls itself something else 1.0"),
        (format!("{none} {binary} --binary-sha256 {zeros}"), "expected 0000"),
        (format!("{none} {binary} --gateway-interface eth0 --interfaces-pattern eth["), "SNCTRLR_INTERFACES_PATTERN"),
        (format!("{none} {binary} {INTERFACES} --set SNCTRLR_LEASE_SECONDS=1"), "SNCTRLR_LEASE_SECONDS"),
        (format!("{none} {binary} --kubeconfig given/no-kubeconfig"), "no such kubeconfig"),
        (format!("--no-start {binary} {INTERFACES} --kube-proxy given/proxy-1.43"), "has no IPVS mode any more"),
    ] {
        refused(&tree.install(&arguments), part);
    }
    refused(&tree.install_as(IMAGE, "setpriv --reuid 65534 --regid 65534 --clear-groups"), "this needs root");
    assert_eq!(differing(&before, &tree.snapshot()), NOTHING);
}

#[test]
fn what_is_on_the_box_already_can_be_a_reason_too() {
    let tree = BoxTree::new();
    // Stands before the real one in install.sh's PATH.
    bed::write_executable(&tree.path("bin/iptables"), "#!/bin/sh\necho 'iptables v1.8.9 (legacy)'\n");
    refused(&tree.install(IMAGE), "iptables is the legacy variant");
    fs::remove_file(tree.path("bin/iptables")).unwrap();

    let unit = tree.path("etc/systemd/system/kube-proxy.service");
    fs::write(&unit, "[Service]\nExecStart=/opt/kube-proxy\n").unwrap();
    refused(&tree.install(IMAGE), "A risk: --force goes on");
    let forced = tree.install(&format!("{IMAGE} --force"));
    assert!(forced.code == Some(0) && forced.err.contains("going on: --force"), "{forced:?}");
    refused(&tree.install("--no-start --without-kube-proxy"), "--uninstall first");

    fs::remove_file(tree.path("deploy/systemd/smartnat.service")).unwrap();
    refused(&tree.install(IMAGE), "run this from the whole directory deploy/");
}

#[test]
fn a_wrong_command_line_is_told_as_such() {
    let tree = BoxTree::new();
    for (arguments, part) in [
        ("--nothing", "unknown option"),
        ("--binary", "needs a value"),
        ("--binary https://example.com/smartnat-manager", "a URL needs --binary-sha256"),
        ("--without-kube-proxy --kube-proxy /x", "excludes"),
        ("--set LEASE=1", "SNCTRLR_NAME=VALUE"),
        ("--binary-sha256 12", "no SHA-256"),
        ("--purge", "goes with --uninstall"),
    ] {
        let ran = tree.install(arguments);
        assert!(ran.code == Some(2) && ran.err.contains(part) && ran.err.contains("--help"), "{arguments}: {ran:?}");
    }
}

#[test]
fn a_dry_run_says_each_thing_and_changes_nothing() {
    let tree = BoxTree::new();
    let before = tree.snapshot();
    let image = IMAGE.replace("given/proxy", kube_proxy().to_str().unwrap());
    let dry = tree.install(&format!("{image} --dry-run"));
    assert_eq!(dry.code, Some(0), "{dry:?}");
    assert_eq!(differing(&before, &tree.snapshot()), NOTHING);
    let real = tree.install(&image);
    assert_eq!(real.code, Some(0), "{real:?}");
    let said = |ran: &Ran| -> Vec<String> {
        let lines = ran.out.lines().filter_map(|l| l.trim_start_matches("would ").split_once(' '));
        lines
            .filter(|(verb, _)| ["install", "installing", "enable"].contains(verb))
            .map(|(_, what)| what.to_owned())
            .collect()
    };
    assert_eq!(said(&dry), said(&real));
    assert!(said(&real).len() > 15, "{real:?}");
    let before = tree.snapshot();
    let dry = tree.install("--uninstall --purge --no-start --dry-run");
    assert!(dry.code == Some(0) && dry.out.contains("would remove /etc/smartnat/smartnat.env"), "{dry:?}");
    assert_eq!(differing(&before, &tree.snapshot()), NOTHING);
}

#[test]
fn a_second_run_changes_nothing_and_one_with_a_new_setting_that_setting_alone() {
    let tree = BoxTree::new();
    assert_eq!(tree.install(IMAGE).code, Some(0));
    let first = tree.snapshot();
    let again = tree.install(IMAGE);
    assert!(again.code == Some(0) && again.out.contains("nothing was changed"), "{again:?}");
    assert_eq!(differing(&first, &tree.snapshot()), NOTHING);

    let file = tree.path("etc/smartnat/smartnat.env");
    fs::write(&file, tree.read("etc/smartnat/smartnat.env") + "# mine\nSNCTRLR_MONITOR_PORT=9\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let before = tree.read("etc/smartnat/smartnat.env");
    let changed = tree.install("--no-start --set SNCTRLR_MONITOR_PORT=10 --set SNCTRLR_SETUP_SNAT=true");
    assert_eq!(changed.code, Some(0), "{changed:?}");
    let expected = before
        .replace("SNCTRLR_MONITOR_PORT=9", "SNCTRLR_MONITOR_PORT=10")
        .replace("#SNCTRLR_SETUP_SNAT=false", "SNCTRLR_SETUP_SNAT=true");
    assert_eq!(tree.read("etc/smartnat/smartnat.env"), expected);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(differing(&first, &tree.snapshot()), [file]);
}

#[test]
fn kubeconfigs_are_roots_alone() {
    let tree = BoxTree::new();
    for name in ["a", "b"] {
        fs::write(tree.path(&format!("given/{name}")), format!("apiVersion: v1\nkind: Config\n# {name}\n")).unwrap();
    }
    let ran = tree.install(&format!("{IMAGE} --kubeconfig given/a --kube-proxy-kubeconfig given/b"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for (path, mark) in [("etc/smartnat/kubeconfig", "# a"), ("etc/kubeconfig", "# b")] {
        assert!(tree.read(path).contains(mark), "{path}");
        assert_eq!(fs::metadata(tree.path(path)).unwrap().permissions().mode() & 0o777, 0o600, "{path}");
    }
}

#[test]
fn what_fails_on_the_way_leaves_the_earlier_installation_as_it_was() {
    let tree = BoxTree::new();
    assert_eq!(tree.install(IMAGE).code, Some(0));
    tree.program("given/newer", "smartnat-manager 9.9.9");
    // A directory is in the way of a file that comes after the program and the settings.
    let blocked = tree.path("etc/systemd/system/kube-proxy.service");
    fs::remove_file(&blocked).unwrap();
    fs::create_dir(&blocked).unwrap();
    fs::write(blocked.join("beside SmartNat"), "").unwrap();
    let before = tree.snapshot();
    let failed = tree.install("--no-start --force --binary given/newer --set SNCTRLR_MONITOR_PORT=10");
    assert!(failed.code == Some(1) && failed.err.contains("putting back"), "{failed:?}");
    assert!(failed.out.contains("installing /usr/local/bin/smartnat-manager (changed)"), "{failed:?}");
    assert_eq!(differing(&before, &tree.snapshot()), NOTHING);
}

#[test]
fn uninstalling_leaves_settings_unless_told_otherwise_and_nothing_else() {
    let tree = BoxTree::new();
    // Directories that may be there or not; they stay.
    for dir in [
        "systemd/networkd.conf.d",
        "systemd/network",
        "systemd/system/sysinit.target.wants",
        "systemd/system/multi-user.target.wants",
    ] {
        fs::create_dir_all(tree.path("etc").join(dir)).unwrap();
    }
    symlink("/dev/null", tree.path("etc/systemd/system/unrelated.service")).unwrap();
    let before = tree.snapshot();
    assert_eq!(tree.install(IMAGE).code, Some(0));
    // Also where an installation stopped half-way.
    fs::remove_file(tree.path("etc/systemd/system/kube-proxy-kubeconfig.path")).unwrap();
    fs::remove_file(tree.path("etc/systemd/system/multi-user.target.wants/kube-proxy-kubeconfig.path")).unwrap();
    let ran = tree.install("--uninstall --no-start");
    assert!(ran.code == Some(0) && ran.out.contains("Settings and kubeconfigs stay"), "{ran:?}");
    let left: Vec<PathBuf> = tree.snapshot().into_keys().filter(|path| !before.contains_key(path)).collect();
    assert_eq!(left, [tree.path("etc/smartnat"), tree.path("etc/smartnat/smartnat.env")]);
    assert_eq!(tree.install("--uninstall --no-start --purge").code, Some(0));
    assert_eq!(differing(&before, &tree.snapshot()), NOTHING);
    let ran = tree.install("--uninstall --no-start");
    assert!(ran.out.contains("Nothing of SmartNat is installed here"), "{ran:?}");
}
