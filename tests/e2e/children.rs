//! Programs that the daemon and its subcommands start: they end when whoever started them does.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bed::{Bed, eventually, write_executable};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::{PROGRAM, daemon, manifests, mapping};

/// A tool ahead of the real one on PATH. On demand it hangs, deaf to what asks it to end, with a child of its own that holds its pipes.
struct Deaf(TempDir);

impl Deaf {
    fn new(tool: &str) -> Self {
        let deaf = Deaf(tempfile::tempdir().unwrap());
        let (on, pids, path) = (deaf.file("on"), deaf.file("pids"), deaf.file(tool));
        let script = format!(
            "#!/bin/sh\n[ -e {on} ] && {{ trap '' TERM INT HUP; sleep 300 & echo $$ $! >{pids}.new; mv {pids}.new {pids}; wait; }}\n\
             PATH=${{PATH#*:}}; exec {tool} \"$@\"\n",
            on = on.display(),
            pids = pids.display(),
        );
        write_executable(&path, script);
        deaf
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn path(&self) -> String {
        format!("{}:{}", self.0.path().display(), std::env::var("PATH").unwrap())
    }

    fn begin(&self) {
        fs::write(self.file("on"), "").unwrap();
    }

    /// The process ids of what hangs, once it does.
    fn hangs(&self) -> Vec<String> {
        let text = eventually("the tool hangs", || fs::read_to_string(self.file("pids")).ok());
        text.split_whitespace().map(str::to_owned).collect()
    }
}

#[track_caller]
fn assert_gone(pids: &[String]) {
    for pid in pids {
        eventually(&format!("process {pid} is gone"), || (!Path::new("/proc").join(pid).exists()).then_some(()));
    }
}

#[test]
fn a_daemon_that_is_stopped_while_a_tool_hangs_ends_soon_and_leaves_nothing_behind() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let tool = Deaf::new("iptables-restore");
    let mut daemon =
        daemon(&bed, &manifests).set("PATH", &tool.path()).set("SNCTRLR_IPTABLES_TIMEOUT_SEC", "300").start();
    daemon.settle(&manifests);
    tool.begin();
    manifests.put(mapping("late", &[Bed::EXT1B])).write();
    let pids = tool.hangs();
    // Far sooner than the tool's own limit: nobody waits for that long here.
    assert!(daemon.stop().success());
    assert_gone(&pids);
}

#[test]
fn a_tool_that_hangs_is_ended_at_the_limit_with_what_it_started() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    // Tables are read by this one.
    let tool = Deaf::new("iptables");
    tool.begin();
    let mut daemon = daemon(&bed, &manifests).set("PATH", &tool.path()).set("SNCTRLR_IPTABLES_TIMEOUT_SEC", "1");
    daemon.launch();
    let pids = tool.hangs();
    assert_gone(&pids);
    // Some calls may fail without a word: until one is told that may not.
    eventually("it is told", || daemon.log().contains("did not end within 1 s and was ended").then_some(()));
    fs::remove_file(tool.file("on")).unwrap();
    eventually("the daemon is ready", || (daemon.get("/readyz")?.code == 200).then_some(()));
}

#[test]
fn a_subcommand_that_is_interrupted_takes_along_what_it_started() {
    let bed = Bed::new();
    let tool = Deaf::new("iptables");
    tool.begin();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", bed.border.name(), PROGRAM, "check"]);
        command.env("PATH", tool.path()).env("SNCTRLR_IPTABLES_TIMEOUT_SEC", "300");
        command.env("SNCTRLR_DEFAULT_GW_INTERFACE", "eth0").env("SNCTRLR_INTERFACES_PATTERN", "eth[1-9]");
        command.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let check = command.spawn().unwrap();
        let pids = tool.hangs();
        kill(Pid::from_raw(check.id().cast_signed()), signal).unwrap();
        let output = check.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && told.contains(signal.as_str()), "{told}");
        assert_gone(&pids);
        fs::remove_file(tool.file("pids")).unwrap();
    }
}
