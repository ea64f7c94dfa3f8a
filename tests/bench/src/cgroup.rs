use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A control group (version 2) for a program and all that it starts: what those that ended used counts too. Removed
/// when dropped.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
}

/// Starts a program within the group whose `cgroup.procs` is the first argument.
const ENTER: &str = r#"echo $$ > "$0" && exec "$@""#;

impl Cgroup {
    /// # Panics
    /// Where no cgroup2 is mounted, or this may not write there.
    pub fn new() -> Cgroup {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is there");
        let root = mounts.lines().find_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            (words.get(2) == Some(&"cgroup2")).then(|| words[1].to_owned())
        });
        let root = root.expect("no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup");
        let name = format!("sn-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new(&root).join(name);
        fs::create_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}; run this as root", dir.display()));
        Cgroup { dir }
    }

    /// Processor time of all that was ever in it.
    pub fn used(&self) -> Duration {
        let text = fs::read_to_string(self.dir.join("cpu.stat")).expect("a group has a cpu.stat");
        let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).and_then(|n| n.parse().ok());
        Duration::from_micros(micros.expect("cpu.stat tells the usage"))
    }

    /// A command that will run within it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", ENTER]).arg(self.dir.join("cgroup.procs")).arg(program);
        command
    }

    /// Who is in it now.
    pub fn pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for again in 0..100 {
            if self.pids().is_empty() && fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            if again == 50 {
                for pid in self.pids() {
                    _ = nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(pid.cast_signed()),
                        nix::sys::signal::Signal::SIGKILL,
                    );
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("the control group {} stays behind", self.dir.display());
    }
}

/// A field of /proc/PID/status, in MiB.
pub fn memory(pid: u32, field: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}
