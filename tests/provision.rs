//! `nixos/module/provision.sh`, which takes what a machine is given at its boot: run as its units run it, on credentials, user data and a
//! real file system as config drive. As root.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const KUBECONFIG: &str = "apiVersion: v1\nkind: Config\n";

/// A machine's directories, in one of their own.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        for name in [
            "state",
            "runtime",
            "credentials",
            "drive",
            "bin",
            "root/.ssh",
            "dev/disk/by-label",
            "etc",
            "proc/sys/kernel",
        ] {
            fs::create_dir_all(place.path(name)).unwrap();
        }
        place.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        place.write("proc/sys/kernel/hostname", "nixos\n");
        // There is no networkd here: what it is told stands in a file.
        let networkctl = format!("#!/bin/sh\necho \"$@\" >>{}\n", place.path("networkctl").display());
        bed::write_executable(&place.path("bin/networkctl"), networkctl);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn kept(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    /// A file system with the content of `drive/` appears under this label.
    fn plug(&self, label: &str) {
        let image = self.path("drive.img");
        let mut make = Command::new("mke2fs");
        make.args(["-q", "-F", "-t", "ext4", "-d"]).arg(self.path("drive")).arg(&image).arg("4M");
        let made = make.output().expect("mke2fs can be run: apt-get install e2fsprogs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        symlink(image, self.path("dev/disk/by-label").join(label)).unwrap();
    }

    fn run(&self, phase: &str, sources: &str) -> (Output, String) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("nixos/module/provision.sh");
        // What it mounts is seen by it alone, as by its unit.
        let mut command = Command::new("unshare");
        let with_its_umask = "umask 0077; exec bash \"$@\"";
        command.args(["--mount", "bash", "-c", with_its_umask, "bash"]).arg(script).arg(phase).env_clear();
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.path("bin").display()));
        command
            .env("SMARTNAT_SOURCES", sources)
            .env("SMARTNAT_LABELS", "SMARTNAT config-2")
            .env("SMARTNAT_DRIVE_WAIT", "0");
        let root = self.0.path();
        command.env("SMARTNAT_ROOT", root);
        let directories =
            [("STATE_DIRECTORY", "state"), ("RUNTIME_DIRECTORY", "runtime"), ("CREDENTIALS_DIRECTORY", "credentials")];
        command.envs(directories.map(|(variable, name)| (variable, root.join(name))));
        let output = command.output().expect("unshare can be run: apt-get install util-linux");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output, said)
    }

    #[track_caller]
    fn must(&self, phase: &str, sources: &str) -> String {
        let (output, said) = self.run(phase, sources);
        assert!(output.status.success(), "{said}");
        said
    }
}

const ALL: &str = "credential config-drive user-data";

#[test]
fn credentials_are_kept_for_root_alone_and_a_boot_that_finds_nothing_keeps_them() {
    let place = Place::new();
    place.write("credentials/smartnat.kubeconfig", KUBECONFIG);
    place.write("credentials/kube-proxy.kubeconfig", "of kube-proxy\n");
    place.write("credentials/another", "not ours\n");
    place.must("early", ALL);
    assert_eq!(place.kept("state/smartnat.kubeconfig").as_deref(), Some(KUBECONFIG));
    assert_eq!(place.kept("state/kube-proxy.kubeconfig").as_deref(), Some("of kube-proxy\n"));
    assert_eq!(place.kept("state/another"), None);
    let written = fs::metadata(place.path("state/smartnat.kubeconfig")).unwrap();
    assert_eq!(written.mode() & 0o777, 0o600);

    // The same again is no change: what watches the file is left alone.
    assert!(place.must("early", ALL).contains("smartnat.kubeconfig from system credentials: unchanged"));
    assert_eq!(fs::metadata(place.path("state/smartnat.kubeconfig")).unwrap().ino(), written.ino());

    fs::remove_dir_all(place.path("credentials")).unwrap();
    fs::create_dir(place.path("credentials")).unwrap();
    assert!(place.must("early", ALL).contains("nothing was given"));
    assert_eq!(place.kept("state/smartnat.kubeconfig").as_deref(), Some(KUBECONFIG));
    // Something half made is left by nobody.
    assert_eq!(fs::read_dir(place.path("state")).unwrap().count(), 2);
}

#[test]
fn a_config_drive_gives_kubeconfigs_settings_keys_and_networks_where_no_credential_does() {
    let place = Place::new();
    place.write("drive/smartnat.kubeconfig", KUBECONFIG);
    place.write("drive/smartnat.env", "SNCTRLR_INSTANCE_NAME=one\n");
    place.write("drive/authorized_keys", "ssh-ed25519 AAAA\n");
    place.write("drive/05-eth1.network", "[Match]\nName=eth1\n");
    place.write("drive/..network", "a name that is none\n");
    place.plug("SMARTNAT");
    place.must("early", ALL);
    assert_eq!(place.kept("state/smartnat.kubeconfig").as_deref(), Some(KUBECONFIG));
    assert_eq!(place.kept("state/smartnat.env").as_deref(), Some("SNCTRLR_INSTANCE_NAME=one\n"));
    assert_eq!(place.kept("root/.ssh/authorized_keys").as_deref(), Some("ssh-ed25519 AAAA\n"));
    assert_eq!(place.kept("run/systemd/network/05-eth1.network").as_deref(), Some("[Match]\nName=eth1\n"));
    // networkd is no root.
    assert_eq!(fs::metadata(place.path("run/systemd/network")).unwrap().mode() & 0o777, 0o755);
    assert_eq!(fs::metadata(place.path("run/systemd/network/05-eth1.network")).unwrap().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(place.path("run/systemd/network")).unwrap().count(), 1);
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&*place.path("runtime").to_string_lossy()), "the drive is not left mounted");

    // Credentials come first, and a source that is not asked for gives nothing.
    place.write("credentials/smartnat.kubeconfig", "by credential\n");
    place.must("early", ALL);
    assert_eq!(place.kept("state/smartnat.kubeconfig").as_deref(), Some("by credential\n"));
    fs::remove_file(place.path("credentials/smartnat.kubeconfig")).unwrap();
    place.must("early", "credential");
    assert_eq!(place.kept("state/smartnat.kubeconfig").as_deref(), Some("by credential\n"));
}

#[test]
fn networks_outlive_the_drive_that_gave_them_and_the_next_drive_replaces_them_all() {
    let place = Place::new();
    let reboot = || fs::remove_dir_all(place.path("run/systemd/network")).unwrap();
    let networks = || {
        let entries = fs::read_dir(place.path("run/systemd/network")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    place.write("drive/05-eth1.network", "[Match]\nName=eth1\n");
    place.write("drive/05-eth2.network", "[Match]\nName=eth2\n");
    place.plug("SMARTNAT");
    place.must("early", ALL);
    assert_eq!(networks(), ["05-eth1.network", "05-eth2.network"]);

    reboot();
    fs::remove_file(place.path("dev/disk/by-label/SMARTNAT")).unwrap();
    place.must("early", ALL);
    assert_eq!(networks(), ["05-eth1.network", "05-eth2.network"]);

    // Neither does one that cannot be read take them away.
    reboot();
    symlink(place.path("no-device"), place.path("dev/disk/by-label/SMARTNAT")).unwrap();
    place.write("no-device", "no file system");
    assert!(!place.run("early", ALL).0.status.success());
    assert_eq!(networks(), ["05-eth1.network", "05-eth2.network"]);

    // Nor one that gives something else.
    reboot();
    fs::remove_file(place.path("dev/disk/by-label/SMARTNAT")).unwrap();
    fs::remove_dir_all(place.path("drive")).unwrap();
    fs::create_dir(place.path("drive")).unwrap();
    place.write("drive/smartnat.kubeconfig", KUBECONFIG);
    place.plug("SMARTNAT");
    place.must("early", ALL);
    assert_eq!(networks(), ["05-eth1.network", "05-eth2.network"]);

    reboot();
    fs::remove_file(place.path("dev/disk/by-label/SMARTNAT")).unwrap();
    place.write("drive/05-eth2.network", "[Match]\nName=eth2\n[Network]\nAddress=192.0.2.1/24\n");
    place.plug("SMARTNAT");
    let said = place.must("early", ALL);
    assert!(said.contains("05-eth1.network was not given again: removed"), "{said}");
    assert_eq!(networks(), ["05-eth2.network"]);
    assert!(place.kept("run/systemd/network/05-eth2.network").unwrap().contains("192.0.2.1/24"));
    assert_eq!(place.kept("networkctl"), None, "networkd reads them when it starts");

    // User data come when it runs already.
    place.write("etc/ec2-metadata/user-data", r#"{"05-eth3.network": "[Match]\nName=eth3\n"}"#);
    place.must("user-data", ALL);
    assert_eq!(networks(), ["05-eth3.network"]);
    assert_eq!(place.kept("networkctl").as_deref(), Some("reload\n"));
}

#[test]
fn a_machine_has_the_name_that_it_was_given_or_one_of_its_own() {
    let place = Place::new();
    let name = || place.kept("proc/sys/kernel/hostname").unwrap();
    place.must("early", ALL);
    assert_eq!(name(), "border-01234567\n");

    // One that the system has is left alone.
    for known in ["by-credential\n", "by-dhcp.example.org\n"] {
        place.write("proc/sys/kernel/hostname", known);
        place.must("early", ALL);
        assert_eq!(name(), known);
    }
    place.write("etc/hostname", "nixos\n");
    place.write("proc/sys/kernel/hostname", "nixos\n");
    place.must("early", ALL);
    assert_eq!(name(), "nixos\n");

    place.write("drive/hostname", "border-7\n");
    place.plug("SMARTNAT");
    place.must("early", ALL);
    assert_eq!(name(), "border-7\n");
    place.write("etc/ec2-metadata/user-data", r#"{"hostname": "border-8.example.org"}"#);
    place.must("user-data", ALL);
    assert_eq!(name(), "border-8.example.org\n");

    for wrong in ["Border", "-border", "two words", "a..b", &"a".repeat(65)] {
        place.write(
            "etc/ec2-metadata/user-data",
            &format!(r#"{{"hostname": "{wrong}", "smartnat.kubeconfig": "kept"}}"#),
        );
        let (output, said) = place.run("user-data", ALL);
        assert!(!output.status.success() && said.contains(&format!("\"{wrong}\" is no host name")), "{said}");
        assert_eq!(name(), "border-8.example.org\n");
        assert_eq!(place.kept("state/smartnat.kubeconfig").as_deref(), Some("kept"));
    }
}

#[test]
fn a_config_drive_of_openstack_gives_user_data() {
    let place = Place::new();
    fs::create_dir_all(place.path("drive/openstack/latest")).unwrap();
    place.write("drive/openstack/latest/user_data", r#"{"smartnat.kubeconfig": {"kind": "Config"}}"#);
    place.plug("config-2");
    place.must("early", ALL);
    assert_eq!(place.kept("state/smartnat.kubeconfig").as_deref(), Some(r#"{"kind":"Config"}"#));

    // What is wrong there is told, and costs nothing else.
    place.write("drive/openstack/latest/user_data", "{ no object");
    place.write("drive/05-eth1.network", "[Match]\nName=eth1\n");
    fs::remove_file(place.path("dev/disk/by-label/config-2")).unwrap();
    place.plug("config-2");
    let (output, said) = place.run("early", ALL);
    assert!(!output.status.success() && said.contains("user data of config drive"), "{said}");
    assert!(place.kept("run/systemd/network/05-eth1.network").is_some());
    assert_eq!(place.kept("state/smartnat.kubeconfig").as_deref(), Some(r#"{"kind":"Config"}"#));
}

#[test]
fn a_drive_that_cannot_be_mounted_is_named_with_what_would_do() {
    let place = Place::new();
    place.write("noise", &"no file system ".repeat(1000));
    symlink(place.path("noise"), place.path("dev/disk/by-label/SMARTNAT")).unwrap();
    let (output, said) = place.run("early", ALL);
    assert!(!output.status.success());
    assert!(
        said.contains("dev/disk/by-label/SMARTNAT cannot be mounted") && said.contains("vfat, iso9660 or ext4"),
        "{said}"
    );
}

#[test]
fn user_data_is_data_and_what_is_wrong_with_it_loses_nothing() {
    let place = Place::new();
    place.write(
        "etc/ec2-metadata/user-data",
        r#"{"smartnat.kubeconfig": "apiVersion: v1\nkind: Config\n", "mine": 1, "../../etc/x": "no"}"#,
    );
    let said = place.must("user-data", ALL);
    assert!(!said.contains("nothing was given"), "{said}");
    assert_eq!(place.kept("state/smartnat.kubeconfig").as_deref(), Some(KUBECONFIG));
    assert!(said.contains("\"mine\" is unknown") && said.contains("\"../../etc/x\" is unknown"), "{said}");

    for wrong in ["#!/bin/sh\ntouch /tmp/run-by-user-data\n", "[1]", "smartnat.kubeconfig: x"] {
        place.write("etc/ec2-metadata/user-data", wrong);
        let (output, said) = place.run("user-data", ALL);
        assert!(!output.status.success() && said.contains("EC2 user data is no JSON object"), "{said}");
        assert_eq!(place.kept("state/smartnat.kubeconfig").as_deref(), Some(KUBECONFIG));
    }
    assert!(!Path::new("/tmp/run-by-user-data").exists());

    place.write("etc/ec2-metadata/user-data", r#"{"smartnat.kubeconfig": ""}"#);
    let said = place.must("user-data", ALL);
    assert!(said.contains("is empty, and not taken"), "{said}");
    assert_eq!(place.kept("state/smartnat.kubeconfig").as_deref(), Some(KUBECONFIG));

    place.write("etc/ec2-metadata/user-data", r#"{"smartnat.kubeconfig": "other"}"#);
    place.must("user-data", "credential");
    assert_eq!(place.kept("state/smartnat.kubeconfig").as_deref(), Some(KUBECONFIG), "a source that is not asked for");
}
