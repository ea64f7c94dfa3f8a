//! What goes wrong around the daemon (a tool that hangs, a second writer, a state that cannot be saved), and what its supervisor hears.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bed::{Bed, eventually};
use tempfile::TempDir;

use crate::lifecycle::kernel_state;
use crate::support::{
    assert_alive, assert_nothing_lost, assert_served, daemon, flood, manifests, mapping, open_stream,
};

/// An `iptables-restore` ahead of the real one on PATH, which hangs on demand.
struct Hanging(TempDir);

impl Hanging {
    fn new() -> Self {
        let hanging = Hanging(tempfile::tempdir().unwrap());
        let (on, now, tool) = (hanging.file("on"), hanging.file("now"), hanging.file("iptables-restore"));
        let real = "PATH=${PATH#*:}; exec iptables-restore \"$@\"";
        let script =
            format!("#!/bin/sh\n[ -e {} ] && {{ touch {}; exec sleep 300; }}\n{real}\n", on.display(), now.display());
        bed::write_executable(&tool, script);
        hanging
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

    fn wait(&self) {
        eventually("the tool hangs", || self.file("now").exists().then_some(()));
    }

    fn end(&self) {
        fs::remove_file(self.file("on")).unwrap();
    }
}

/// The socket of a supervisor (sd_notify(3)).
struct Supervisor {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Supervisor {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Supervisor { socket: UnixDatagram::bind(directory.path().join("notify")).unwrap(), directory }
    }

    fn address(&self) -> String {
        self.directory.path().join("notify").to_str().unwrap().to_owned()
    }

    /// What is said within a time, until a line begins so.
    fn hear(&self, wanted: &str, within: Duration) -> Option<String> {
        let end = Instant::now() + within;
        let mut buffer = [0; 4096];
        loop {
            let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            self.socket.set_read_timeout(Some(left)).unwrap();
            let Ok(length) = self.socket.recv(&mut buffer) else { continue };
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if let Some(line) = text.lines().find(|l| l.starts_with(wanted)) {
                return Some(line.to_owned());
            }
        }
    }
}

const LONG: Duration = Duration::from_secs(30);

#[test]
fn a_tool_that_hangs_is_given_up_named_and_tried_again_while_traffic_goes_on() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let tool = Hanging::new();
    let daemon = daemon(&bed, &manifests).set("PATH", &tool.path()).set("SNCTRLR_IPTABLES_TIMEOUT_SEC", "1").start();
    let stream = open_stream(&bed.client1, Bed::EXT1);
    let floods = flood(&bed.client1, Bed::EXT1);
    tool.begin();
    manifests.put(mapping("late", &[Bed::EXT1B])).write();
    eventually("the failure is told with its command and remedy, and was tried again", || {
        let reply = daemon.get("/healthcheck")?;
        let parts = ["(2 times)", "iptables-restore --noflush", "SNCTRLR_IPTABLES_TIMEOUT_SEC", "FAIL "];
        (reply.code == 503 && parts.iter().all(|p| reply.body.contains(p))).then_some(())
    });
    assert_eq!(daemon.get("/readyz").unwrap().code, 200, "what worked goes on working");
    assert_alive(&stream);
    assert_served(&bed.client1, Bed::EXT1);
    tool.end();
    daemon.settle(&manifests);
    assert_served(&bed.client1, Bed::EXT1B);
    assert_eq!(daemon.get("/healthcheck").unwrap().code, 200);
    assert_nothing_lost(floods, 5);
    assert_eq!(stream.stop().broken, None);
}

#[test]
fn a_second_daemon_and_a_cleanup_beside_a_running_one_are_refused() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let mut daemon = daemon(&bed, &manifests).start();
    let before = kernel_state(&bed);
    let second = daemon.command(&["run", "--monitor-port", "8081", "--manifests", manifests.dir().to_str().unwrap()]);
    let cleanup = daemon.command(&["cleanup", "--monitor-port", "8081"]);
    for (output, code) in [(second, 1), (cleanup, 3)] {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains("another smartnat-manager"), "{output:?}");
        assert!(said.contains("stop it first"), "{said}");
    }
    assert_eq!(kernel_state(&bed), before);
    assert_served(&bed.client1, Bed::EXT1);
    daemon.kill();
    daemon.start_again();
}

#[test]
fn nothing_is_forwarded_before_what_cleanup_needs_is_saved() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let mut daemon = daemon(&bed, &manifests);
    let obstacle = daemon.state_dir().join("sysctls.json.new");
    fs::create_dir_all(&obstacle).unwrap();
    daemon.launch();
    eventually("it fails again and again", || daemon.get("/healthcheck")?.body.contains("(2 times)").then_some(()));
    let reply = daemon.get("/healthcheck").unwrap();
    assert!(reply.code == 503 && reply.body.contains("sysctls.json could not be written"), "{reply:?}");
    assert_eq!(daemon.get("/readyz").unwrap().code, 503);
    assert_eq!(bed.border.sysctl("net/ipv4/ip_forward"), "0");
    let rules = bed.border.run("iptables -t mangle -S FORWARD");
    assert!(rules.contains("-j SMARTNAT-BORDER"), "the border is closed all the same: {rules}");
    fs::remove_dir(&obstacle).unwrap();
    eventually("it is ready", || (daemon.get("/readyz")?.code == 200).then_some(()));
    assert_served(&bed.client1, Bed::EXT1);
}

#[test]
fn the_supervisor_hears_ready_when_the_border_is_closed_whatever_the_sources_do() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let (tool, supervisor) = (Hanging::new(), Supervisor::new());
    tool.begin();
    let away = manifests.dir().with_extension("away");
    fs::rename(manifests.dir(), &away).unwrap();
    let mut daemon = daemon(&bed, &manifests)
        .set("PATH", &tool.path())
        .set("SNCTRLR_IPTABLES_TIMEOUT_SEC", "1")
        .set("NOTIFY_SOCKET", &supervisor.address());
    daemon.launch();
    tool.wait();
    assert_eq!(supervisor.hear("READY=1", Duration::from_secs(2)), None, "the border is still open");
    tool.end();
    assert!(supervisor.hear("READY=1", LONG).is_some());
    for tool in ["iptables", "ip6tables"] {
        let rules = bed.border.run(&format!("{tool} -t mangle -S FORWARD"));
        assert!(rules.contains("-j SMARTNAT-BORDER"), "{tool}: {rules}");
    }
    assert!(supervisor.hear("STATUS=border closed, waiting", LONG).is_some());
    fs::rename(&away, manifests.dir()).unwrap();
    let status =
        supervisor.hear("STATUS=1 mapping, 2 endpoints on 2 interfaces; ", LONG).expect("real figures are told");
    assert!(status.contains("; last pass "), "{status}");
    assert!(daemon.stop().success());
    assert!(supervisor.hear("STOPPING=1", LONG).is_some());
}

#[test]
fn the_watchdog_is_fed_by_the_loop_and_starves_with_it() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let (tool, supervisor) = (Hanging::new(), Supervisor::new());
    let settings = [
        ("PATH", tool.path()),
        ("SNCTRLR_IPTABLES_TIMEOUT_SEC", "60".to_owned()),
        ("NOTIFY_SOCKET", supervisor.address()),
        ("WATCHDOG_USEC", "1000000".to_owned()),
    ];
    let _daemon = settings.iter().fold(daemon(&bed, &manifests), |d, (name, value)| d.set(name, value)).start();
    for _ in 0..5 {
        assert!(supervisor.hear("WATCHDOG=1", LONG).is_some(), "the loop turns");
    }
    tool.begin();
    manifests.put(mapping("late", &[Bed::EXT1B])).write();
    tool.wait();
    // What was said before, and the one for the tools that ended before this one.
    while supervisor.hear("WATCHDOG=1", Duration::from_secs(1)).is_some() {}
    assert_eq!(supervisor.hear("WATCHDOG=1", Duration::from_secs(3)), None, "a stuck loop feeds nothing");
}
