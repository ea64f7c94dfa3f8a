//! The appliance as a virtual machine: a real kernel with IPVS and a real systemd in the place of a bed's border box.
//!
//! QEMU runs in the namespace of the border, whose ends of the cables become bridges with a tap each: everything around the box (clients,
//! routers, attackers, pods, the API server) is that of [`Bed`]. The machine is what `tests/appliance/build.sh` made, a bare Debian; what a
//! test brings along comes on a second disk, mounted at [`PAYLOAD`]. Without KVM a boot takes some 20 seconds of both cores, so only one
//! machine runs at a time, also across test processes.

mod image;
mod qmp;
mod ssh;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::packet::Mac;
use crate::{Bed, Layout, reaper};
use ssh::Ssh;

/// Where the guest sees the directory that a test brought along, read-only.
pub const PAYLOAD: &str = "/payload";

/// From power to an answer over ssh; with other work on the machine.
const BOOT: Duration = Duration::from_secs(120);
/// What the guest's kernel says when the emulation has stopped one of its processors, which happens now and then early in a boot.
const STALLED: &str = "rcu_preempt detected stalls";
/// From the command to the end of QEMU; systemd itself gives units 90 s.
const SHUTDOWN: Duration = Duration::from_secs(120);

/// A running appliance.
pub struct Vm<'a> {
    bed: &'a Bed,
    /// QEMU; `None` between two boots.
    qemu: Mutex<Option<Child>>,
    ssh: Ssh<'a>,
    dir: TempDir,
    /// Arguments of QEMU for what the machine is given from outside.
    given: Mutex<Vec<String>>,
    /// One machine at a time.
    _turn: Flock<File>,
}

impl<'a> Vm<'a> {
    /// Boots a fresh machine in the place of the bed's border, with eth0, eth1 and eth2 on the border's wires (no addresses: the guest
    /// brings its own) and waits until it answers. `payload` is a directory.
    ///
    /// # Panics
    /// When the machine was not built (with the command that does), or does not come up: with the end of its console.
    #[track_caller]
    pub fn boot(bed: &'a Bed, payload: &Path) -> Vm<'a> {
        let turn = File::create(image::path("turn")).expect("the directory of the machine can be written");
        let turn = Flock::lock(turn, FlockArg::LockExclusive).unwrap_or_else(|(_, e)| panic!("flock: {e}"));
        let dir = tempfile::Builder::new().prefix(&format!("{}-vm-", reaper::new_prefix())).tempdir();
        let dir = dir.expect("a temporary directory can be made");
        image::copy_root(&dir.path().join("root.ext4"));
        image::make_disk("payload", payload, &dir.path().join("payload.ext4"));
        put_on_bridges(bed);
        let ssh = Ssh::new(&bed.border, &image::path("key"), dir.path());
        let vm = Vm { bed, qemu: Mutex::new(None), ssh, dir, given: Mutex::default(), _turn: turn };
        vm.power_on();
        vm.await_answer();
        vm
    }

    /// The MAC address of a guest's interface, the same as that of the box in whose place it stands.
    pub fn mac(&self, interface: &str) -> Mac {
        mac(self.bed, interface)
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

    /// Starts QEMU on the disk as it is, without waiting for anything.
    #[track_caller]
    pub fn power_on(&self) {
        let log = File::create(self.qemu_log()).expect("a new directory can be written");
        let mut command = image::qemu();
        command.args(self.arguments()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = self.bed.border.within(|| command.spawn());
        *self.qemu() = Some(child.unwrap_or_else(|e| panic!("QEMU cannot be started: {e}")));
    }

    /// Waits until the booted machine answers over ssh. One that the emulation has stopped, or whose emulation aborted, is started again.
    #[track_caller]
    pub fn await_answer(&self) {
        let mut begin = Instant::now();
        let mut starts = 1;
        while let Err(why) = self.ssh.connect() {
            if starts < 4 && (self.console().contains(STALLED) || self.aborted()) {
                eprintln!("the emulation stopped the machine while it booted: start {starts} is given up");
                starts += 1;
                begin = Instant::now();
                self.cut_power();
                self.power_on();
            }
            self.assert_runs();
            assert!(begin.elapsed() < BOOT, "the machine does not answer: {why}\n{}", self.console_end());
            std::thread::sleep(Duration::from_millis(200));
        }
        self.must(&format!("mountpoint -q {PAYLOAD} || mount -r LABEL=payload {PAYLOAD}"));
    }

    /// `systemctl reboot`, and waits until the machine is off; [`Vm::power_on`] starts it again.
    #[track_caller]
    pub fn shut_down(&self) {
        // The connection ends before the answer comes, or not.
        _ = self.ssh.run("systemctl reboot", Duration::from_secs(20));
        self.ssh.close();
        let begin = Instant::now();
        loop {
            let ended = self.qemu().as_mut().is_none_or(|c| matches!(c.try_wait(), Ok(Some(_))));
            if ended {
                break;
            }
            assert!(begin.elapsed() < SHUTDOWN, "the machine does not go down\n{}", self.console_end());
            std::thread::sleep(Duration::from_millis(100));
        }
        *self.qemu() = None;
    }

    /// Down by systemd and up again on the same disk, until it answers.
    #[track_caller]
    pub fn reboot(&self) {
        self.shut_down();
        self.power_on();
        self.await_answer();
    }

    /// A power cut.
    pub fn cut_power(&self) {
        self.ssh.close();
        if let Some(mut child) = self.qemu().take() {
            _ = child.kill();
            _ = child.wait();
        }
    }

    /// Runs a shell command in the guest, as root.
    #[track_caller]
    pub fn run(&self, command: &str) -> Output {
        self.run_for(command, Duration::from_secs(120))
    }

    /// As [`Vm::run`], with a limit of its own; exit code 124 where it was reached.
    #[track_caller]
    pub fn run_for(&self, command: &str, limit: Duration) -> Output {
        self.ssh.run(command, limit).unwrap_or_else(|e| panic!("`{command}`: {e}\n{}", self.console_end()))
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
            assert!(begin.elapsed() < crate::BOUND * 4, "{what}: `{command}` still says {}", said());
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
        crate::eventually_within(crate::BOUND, "the slot of the NIC is free", || {
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
    fn qmp(&self, command: &str, arguments: &serde_json::Value) {
        qmp::call(&self.dir.path().join("qmp"), command, arguments).unwrap_or_else(|e| panic!("QEMU: {command}: {e}"));
    }

    fn qemu(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.qemu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How QEMU ended, if it did.
    fn ended(&self) -> Option<ExitStatus> {
        self.qemu().as_mut().and_then(|c| c.try_wait().ok().flatten())
    }

    /// QEMU found itself in a state that it holds for impossible. A guest that panics ends it otherwise.
    fn aborted(&self) -> bool {
        self.ended().and_then(|status| status.signal()) == Some(Signal::SIGABRT as i32)
    }

    #[track_caller]
    fn assert_runs(&self) {
        if let Some(status) = self.ended() {
            panic!("QEMU ended: {status}\n{}{}", read(&self.qemu_log()), self.console_end());
        }
    }

    fn qemu_log(&self) -> std::path::PathBuf {
        self.dir.path().join("qemu.log")
    }

    fn console(&self) -> String {
        read(&self.dir.path().join("console"))
    }

    fn console_end(&self) -> String {
        let text = self.console();
        let lines: Vec<&str> = text.lines().collect();
        format!("--- the end of the console ---\n{}\n", lines[lines.len().saturating_sub(30)..].join("\n"))
    }

    fn arguments(&self) -> Vec<String> {
        let dir = self.dir.path();
        let file = |name: &str| dir.join(name).display().to_string();
        let mut arguments: Vec<String> = format!(
            "-M q35 -accel tcg,thread=multi -cpu Nehalem-v1 -smp 2 -m 1024 -nodefaults -no-user-config -display none -vga none -no-reboot \
             -kernel {} -serial file:{} -qmp unix:{},server=on,wait=off \
             -drive if=none,id=root,file={},format=raw,cache=unsafe -device nvme,serial=root,drive=root \
             -drive if=none,id=payload,file={},format=raw,readonly=on -device virtio-blk-pci,drive=payload \
             -object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng",
            image::path("vmlinuz").display(),
            file("console"),
            file("qmp"),
            file("root.ext4"),
            file("payload.ext4"),
        )
        .split_whitespace()
        .map(str::to_owned)
        .collect();
        // Two NVMe disks would be named in the order in which they answer. A crash ends QEMU: a guest that is dead still takes connections over slirp.
        let kernel = "root=/dev/nvme0n1 rw console=ttyS0 net.ifnames=0 panic=-1 quiet systemd.show_status=0";
        arguments.extend(["-append".to_owned(), kernel.to_owned()]);
        // The kernel names NICs in the order of their buses: the way in comes last.
        for (n, interface) in (1..).zip(INTERFACES) {
            let port = format!("pcie-root-port,id=port-{interface},chassis={n},slot={n}");
            let net = format!("tap,id=net-{interface},ifname=tap-{interface},script=no,downscript=no");
            arguments.extend(["-device".to_owned(), port, "-netdev".to_owned(), net]);
            if interface != SPARE {
                let mac = self.mac(interface);
                let nic = format!(
                    "virtio-net-pci,id={interface},bus=port-{interface},netdev=net-{interface},mac={mac},romfile="
                );
                arguments.extend(["-device".to_owned(), nic]);
            }
        }
        let way_in = format!("user,id=net-mgmt,restrict=on,hostfwd=tcp:127.0.0.1:{}-:22", ssh::PORT);
        arguments.extend(
            ["-device", "pcie-root-port,id=port-mgmt,chassis=9,slot=9", "-netdev", &way_in, "-device"]
                .map(str::to_owned),
        );
        arguments.push("virtio-net-pci,bus=port-mgmt,netdev=net-mgmt,mac=52:54:00:00:00:99,romfile=".to_owned());
        arguments.extend(self.given.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        arguments
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

const INTERFACES: [&str; 4] = ["eth0", "eth1", "eth2", SPARE];
/// Its place is empty when the machine starts.
const SPARE: &str = "eth3";

fn mac(bed: &Bed, interface: &str) -> Mac {
    let address = match (bed.options.layout, interface) {
        (Layout::Routed, "eth0") => Bed::BORDER,
        (Layout::Routed, "eth1") => Bed::EXT1,
        (Layout::Routed, "eth2") => Bed::EXT2,
        (Layout::SameSubnet, "eth0") => Bed::SAME_BORDER,
        (Layout::SameSubnet, "eth1") => Bed::SAME_EXT1[0],
        (Layout::SameSubnet, "eth2") => Bed::SAME_EXT2[0],
        (_, SPARE) => Ipv4Addr::new(198, 51, 100, 30),
        (_, other) => panic!("the machine has no {other}"),
    };
    Mac::of(address)
}

/// The border's ends of the cables become ports of bridges, with other MAC addresses than the guest's NICs, beside a tap for each NIC.
fn put_on_bridges(bed: &Bed) {
    for name in ["all", "default"] {
        bed.border.set_sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1");
    }
    for (n, interface) in INTERFACES.into_iter().enumerate() {
        let tap = format!("tap-{interface}");
        bed.border.ip(&format!("tuntap add dev {tap} mode tap"));
        let bridge = if interface == SPARE { "br-eth2".to_owned() } else { format!("br-{interface}") };
        if interface != SPARE {
            bed.border.ip(&format!(
                "link add name {bridge} up type bridge forward_delay 0 mcast_snooping 0\naddress flush dev {interface}\n\
                 link set {interface} address 02:ff:00:00:00:0{n}\nlink set {interface} master {bridge}"
            ));
        }
        bed.border.ip(&format!("link set {tap} master {bridge}\nlink set {tap} up"));
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
