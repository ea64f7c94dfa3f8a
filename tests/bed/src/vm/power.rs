use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use serde_json::json;

use super::saved::Saved;
use super::standstill::Standstill;
use super::{PATIENCE, PAYLOAD, Vm, hardware, image, read, turn};
use crate::{Bed, eventually_within, holds};

/// What the guest's kernel says when the emulation has stopped one of its processors, which happens now and then early in a boot.
const STALLED: &str = "rcu_preempt detected stalls";
/// The greeting of a guest that is up comes soon; one that has little of the processors is given more time each time.
const FIRST_GREETING: Duration = Duration::from_secs(2);
const LAST_GREETING: Duration = Duration::from_secs(60);

impl<'a> Vm<'a> {
    /// Boots a fresh machine and waits until it answers. `payload` is a directory.
    ///
    /// # Panics
    /// When the machine was not built (with the command that does), or does not come up: with the end of its console.
    #[track_caller]
    pub fn boot(bed: &'a Bed, payload: &Path) -> Vm<'a> {
        let vm = Vm::off(bed, payload);
        image::copy_disk(&image::path("root.ext4"), &vm.root());
        vm.power_on();
        vm.await_answer();
        vm
    }

    /// A fresh machine that has booted, in the same state as after [`Vm::boot`] but for what is random in it. It goes on from where one that
    /// booted before was saved; the first one of its kind is booted and saved.
    ///
    /// # Panics
    /// As [`Vm::boot`].
    #[track_caller]
    pub fn booted(bed: &'a Bed, payload: &Path) -> Vm<'a> {
        let vm = Vm::off(bed, payload);
        let name = format!("{:?}", bed.options.layout).to_lowercase();
        let saved = Saved::new(&name, &vm.arguments(), vm.dir.path());
        // Another one may want the same state.
        let alone = turn::alone(&saved.lock());
        let was_there = saved.is_current();
        if !was_there {
            vm.save(&saved);
        }
        drop(alone);
        let mut went_on = vm.go_on(&saved);
        if let (Err(why), true) = (&went_on, was_there) {
            eprintln!("the saved machine is made anew: {why}");
            let _alone = turn::alone(&saved.lock());
            vm.save(&saved);
            went_on = vm.go_on(&saved);
        }
        went_on.unwrap_or_else(|why| panic!("{why}\n{}", vm.console_end()));
        vm
    }

    /// Starts QEMU on the disk as it is, without waiting for anything.
    #[track_caller]
    pub fn power_on(&self) {
        let payload = format!("if=none,id=payload,file={},format=raw,readonly=on", self.payload().display());
        let device = format!("virtio-blk-pci,bus={},drive=payload", hardware::PAYLOAD_SLOT);
        let mut more: Vec<String> = ["-drive", &payload, "-device", &device].map(str::to_owned).into();
        more.extend(self.given.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        self.start(more);
    }

    /// Waits until the booted machine answers over ssh, as long as its console tells that it gets on. One that the emulation has stopped,
    /// or whose emulation aborted, is started again.
    #[track_caller]
    pub fn await_answer(&self) {
        for start in 1.. {
            let Err(why) = self.connect() else { break };
            assert!(start < 4 && (self.has_stalled() || self.has_aborted()), "{why}\n{}", self.console_end());
            eprintln!("the emulation stopped the machine while it booted: start {start} is given up");
            self.cut_power();
            self.power_on();
        }
        self.mount_payload();
    }

    /// `systemctl reboot`, and waits until the machine is off; [`Vm::power_on`] starts it again.
    #[track_caller]
    pub fn shut_down(&self) {
        // The connection ends before the answer comes, or not.
        _ = self.ssh.run("systemctl reboot", Duration::from_secs(20));
        self.ssh.close();
        let mut standstill = Standstill::new();
        while self.qemu().is_some() && self.ended().is_none() {
            if let Some(why) = standstill.reached(self.console().len()) {
                panic!("the machine does not go down: {why}\n{}", self.console_end());
            }
            std::thread::sleep(Duration::from_millis(50));
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

    /// Boots a machine without a payload and keeps it.
    #[track_caller]
    fn save(&self, saved: &Saved) {
        saved.begin();
        for start in 1.. {
            image::copy_disk(&image::path("root.ext4"), &self.root());
            self.start(Vec::new());
            let Err(why) = self.connect() else { break };
            assert!(start < 4 && (self.has_stalled() || self.has_aborted()), "{why}\n{}", self.console_end());
            self.cut_power();
        }
        let state = self.must("systemctl is-system-running --wait || systemctl --failed --no-legend");
        assert_eq!(state, "running\n", "a bare machine comes up whole");
        self.must("sync");
        self.ssh.close();
        self.qmp("migrate", &json!({"uri": format!("file:{}", saved.memory().display())}));
        eventually_within(PATIENCE, "the machine is saved", || {
            let state = self.qmp("query-migrate", &json!({}));
            assert_ne!(state["status"], "failed", "{state}");
            holds(state["status"] == "completed")
        });
        self.cut_power();
        image::copy_disk(&self.root(), &saved.disk());
        saved.complete();
    }

    /// # Errors
    /// When QEMU cannot go on from it.
    #[track_caller]
    fn go_on(&self, saved: &Saved) -> Result<(), String> {
        image::copy_disk(&saved.disk(), &self.root());
        self.start(vec!["-incoming".to_owned(), format!("file:{}", saved.memory().display())]);
        self.connect()?;
        self.set_clock();
        let file = json!({"driver": "file", "filename": self.payload()});
        let drive = json!({"driver": "raw", "node-name": "payload", "read-only": true, "file": file});
        self.qmp("blockdev-add", &drive);
        let slot = hardware::PAYLOAD_SLOT;
        self.qmp("device_add", &json!({"driver": "virtio-blk-pci", "bus": slot, "drive": "payload"}));
        self.mount_payload();
        Ok(())
    }

    /// The guest's clock stood while it was not running, which may have been for days.
    #[track_caller]
    fn set_clock(&self) {
        for _ in 0..5 {
            let now = SystemTime::now();
            let since = now.duration_since(UNIX_EPOCH).expect("it is later than 1970");
            self.must(&format!("date -s @{}.{:09}", since.as_secs(), since.subsec_nanos()));
            // Again where the way to it took its time, and it is late by that.
            if now.elapsed().is_ok_and(|late| late < Duration::from_secs(1)) {
                return;
            }
        }
    }

    #[track_caller]
    fn mount_payload(&self) {
        let mount = format!("mountpoint -q {PAYLOAD} || mount -r LABEL=payload {PAYLOAD}");
        self.eventually("the disk with the payload is there", &mount);
    }

    #[track_caller]
    fn start(&self, more: Vec<String>) {
        // The next boot is judged by what itself says.
        _ = std::fs::remove_file(self.dir.path().join("console"));
        let log = File::create(self.qemu_log()).expect("a new directory can be written");
        let mut command = image::qemu();
        command.args(self.arguments()).args(more).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = self.bed.border.within(|| command.spawn());
        *self.qemu() = Some(child.unwrap_or_else(|e| panic!("QEMU cannot be started: {e}")));
    }

    /// Waits until the machine answers over ssh.
    ///
    /// # Errors
    /// When QEMU ended, the emulation stopped the machine, or nothing moves any more.
    fn connect(&self) -> Result<(), String> {
        let mut standstill = Standstill::new();
        let mut patience = FIRST_GREETING;
        loop {
            let failure = match self.ssh.greets(patience) {
                true => self.ssh.connect(),
                false => Err("ssh does not greet".to_owned()),
            };
            let Err(why) = failure else { return Ok(()) };
            if let Some(status) = self.ended() {
                return Err(format!("QEMU ended: {status}\n{}", read(&self.qemu_log())));
            }
            if self.has_stalled() {
                return Err("the emulation stopped the machine".to_owned());
            }
            if let Some(limit) = standstill.reached(self.console().len()) {
                return Err(format!("the machine does not answer: {why}; {limit}"));
            }
            patience = (patience + patience / 4).min(LAST_GREETING);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn arguments(&self) -> Vec<String> {
        hardware::arguments(self.bed, self.dir.path())
    }

    fn qemu(&self) -> MutexGuard<'_, Option<Child>> {
        self.qemu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How QEMU ended, if it did.
    fn ended(&self) -> Option<ExitStatus> {
        self.qemu().as_mut().and_then(|c| c.try_wait().ok().flatten())
    }

    fn has_stalled(&self) -> bool {
        self.console().contains(STALLED)
    }

    /// QEMU found itself in a state that it holds for impossible. A guest that panics ends it otherwise.
    fn has_aborted(&self) -> bool {
        self.ended().and_then(|status| status.signal()) == Some(Signal::SIGABRT as i32)
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root.ext4")
    }

    fn payload(&self) -> PathBuf {
        self.dir.path().join("payload.ext4")
    }

    fn qemu_log(&self) -> PathBuf {
        self.dir.path().join("qemu.log")
    }
}
