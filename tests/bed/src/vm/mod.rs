//! The appliance as a virtual machine: a real kernel with IPVS and a real systemd in the place of a bed's border box.
//!
//! QEMU runs in the namespace of the border, whose ends of the cables become bridges with a tap each: everything around the box (clients,
//! routers, attackers, pods, the API server) is that of [`Bed`]. The machine is what `tests/appliance/build.sh` made, a bare Debian; what a
//! test brings along comes on a second disk, mounted at [`PAYLOAD`]. Without KVM a boot takes some 20 seconds of both cores, so most
//! machines go on from where one that booted before was saved, and no more run at a time than there are processors, also across test processes.

mod hardware;
mod image;
mod power;
mod qmp;
mod saved;
mod ssh;
mod standstill;
mod turn;

use std::fs::File;
use std::path::Path;
use std::process::{Child, Output};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::Flock;
use tempfile::TempDir;

use crate::packet::Mac;
use crate::{Bed, reaper};
use ssh::Ssh;

/// Where the guest sees the directory that a test brought along, read-only.
pub const PAYLOAD: &str = "/payload";
/// How long a condition in the machine, or by way of it, may take to come true. It is emulated, beside whatever else runs: what takes
/// milliseconds may take minutes. Only a test that fails waits so long.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// Against a command that hangs.
const COMMAND: Duration = Duration::from_secs(600);

/// A running appliance.
pub struct Vm<'a> {
    bed: &'a Bed,
    /// QEMU; `None` between two boots.
    qemu: Mutex<Option<Child>>,
    ssh: Ssh<'a>,
    dir: TempDir,
    /// Arguments of QEMU for what the machine is given from outside.
    given: Mutex<Vec<String>>,
    /// No more machines than processors.
    _turn: Flock<File>,
}

impl<'a> Vm<'a> {
    /// A machine that is off in the place of the bed's border, with eth0, eth1 and eth2 on the border's wires (no addresses: the guest brings its own).
    fn off(bed: &'a Bed, payload: &Path) -> Vm<'a> {
        let turn = turn::take(&image::path("turns"));
        let dir = tempfile::Builder::new().prefix(&format!("{}-vm-", reaper::new_prefix())).tempdir();
        let dir = dir.expect("a temporary directory can be made");
        image::make_disk("payload", payload, &dir.path().join("payload.ext4"));
        hardware::put_on_bridges(bed);
        let ssh = Ssh::new(&bed.border, &image::path("key"), dir.path());
        Vm { bed, qemu: Mutex::new(None), ssh, dir, given: Mutex::default(), _turn: turn }
    }

    /// The MAC address of a guest's interface, the same as that of the box in whose place it stands.
    pub fn mac(&self, interface: &str) -> Mac {
        hardware::mac(self.bed, interface)
    }

    /// What the machine finds from its next power-on on, beside its disk: a drive with a label and the content of a directory, and system
    /// credentials by SMBIOS, names with contents.
    #[track_caller]
    pub fn give(&self, drive: Option<(&str, &Path)>, credentials: &[(&str, &str)]) {
        let mut arguments = Vec::new();
        if let Some((label, from)) = drive {
            let file = self.dir.path().join("drive.ext4");
            image::make_disk(label, from, &file);
            let file = format!("if=none,id=given,file={},format=raw,readonly=on", file.display());
            arguments.extend(["-drive", &file, "-device", "virtio-blk-pci,drive=given"].map(str::to_owned));
        }
        for (name, content) in credentials {
            let file = self.dir.path().join(name);
            let written = std::fs::write(&file, format!("io.systemd.credential:{name}={content}"));
            written.unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            arguments.extend(["-smbios".to_owned(), format!("type=11,path={}", file.display())]);
        }
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = arguments;
    }

    /// Runs a shell command in the guest, as root.
    #[track_caller]
    pub fn run(&self, command: &str) -> Output {
        self.ssh.run(command, COMMAND).unwrap_or_else(|e| panic!("`{command}`: {e}\n{}", self.console_end()))
    }

    /// As [`Vm::run`], for what tells how it gets on: it may take as long as it goes on printing.
    #[track_caller]
    pub fn run_while_it_tells(&self, command: &str) -> Output {
        let ended = self.ssh.run_while_it_tells(command);
        ended.unwrap_or_else(|e| panic!("`{command}`: {e}\n{}", self.console_end()))
    }

    /// What a shell command in the guest printed.
    ///
    /// # Panics
    /// When it fails, with what it said.
    #[track_caller]
    pub fn must(&self, command: &str) -> String {
        let output = self.run(command);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "in the machine, `{command}`: {}\n{out}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        out
    }

    /// Whether a shell command in the guest succeeds.
    #[track_caller]
    pub fn is(&self, command: &str) -> bool {
        self.run(command).status.success()
    }

    /// Waits until a shell command in the guest succeeds; what it printed.
    #[track_caller]
    pub fn eventually(&self, what: &str, command: &str) -> String {
        let begin = Instant::now();
        loop {
            let output = self.run(command);
            if output.status.success() {
                return String::from_utf8_lossy(&output.stdout).into_owned();
            }
            let said = || String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(begin.elapsed() < PATIENCE, "{what}: `{command}` still says {}", said());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Writes a file in the guest, readable by all; its directory is made.
    #[track_caller]
    pub fn put(&self, path: &str, content: &str) {
        let written = self.ssh.feed(&format!("mkdir -p \"$(dirname {path})\" && cat >{path}"), content);
        let written = written.unwrap_or_else(|e| panic!("{path} in the machine: {e}"));
        assert!(written.status.success(), "{path} in the machine: {}", String::from_utf8_lossy(&written.stderr));
    }

    /// Takes a NIC out, as a hand would: the guest is told and lets go of it.
    #[track_caller]
    pub fn unplug(&self, interface: &str) {
        self.qmp("device_del", &serde_json::json!({"id": interface}));
        self.eventually("the NIC is gone", &format!("! test -e /sys/class/net/{interface}"));
    }

    /// Puts a NIC in: one that was unplugged, or `eth3`, which is on the wire of eth2.
    #[track_caller]
    pub fn plug(&self, interface: &str) {
        let device = serde_json::json!({
            "driver": "virtio-net-pci", "id": interface, "bus": format!("port-{interface}"),
            "netdev": format!("net-{interface}"), "mac": self.mac(interface).to_string(), "romfile": "",
        });
        crate::eventually_within(PATIENCE, "the slot of the NIC is free", || {
            qmp::call(&self.dir.path().join("qmp"), "device_add", &device).ok()
        });
        self.eventually("the NIC is there", &format!("test -e /sys/class/net/{interface}"));
    }

    /// Pulls a cable, or puts it back.
    #[track_caller]
    pub fn link(&self, interface: &str, up: bool) {
        self.qmp("set_link", &serde_json::json!({"name": interface, "up": up}));
    }

    #[track_caller]
    fn qmp(&self, command: &str, arguments: &serde_json::Value) -> serde_json::Value {
        let answer = qmp::call(&self.dir.path().join("qmp"), command, arguments);
        answer.unwrap_or_else(|e| panic!("QEMU: {command}: {e}"))
    }

    fn console(&self) -> String {
        read(&self.dir.path().join("console"))
    }

    fn console_end(&self) -> String {
        let text = self.console();
        let lines: Vec<&str> = text.lines().collect();
        format!("--- the end of the console ---\n{}\n", lines[lines.len().saturating_sub(30)..].join("\n"))
    }
}

impl Drop for Vm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.console_end());
            if let Ok(journal) = self.ssh.run("journalctl -b --no-pager -n 80", Duration::from_secs(20)) {
                eprintln!("--- the end of the machine's journal ---\n{}", String::from_utf8_lossy(&journal.stdout));
            }
        }
        self.cut_power();
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
