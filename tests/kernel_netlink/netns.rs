//! A private network namespace per test.

use std::future::Future;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

/// Longest wait for anything that the kernel or a task is to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test on a thread that has left for a new network namespace, with a runtime of its own. Sockets opened and commands started by it
/// belong there. The namespace has no name and dies with the thread, however the test ends.
pub fn in_netns<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("a private network namespace needs root (CAP_SYS_ADMIN): run the tests as `sudo -E cargo test`");
        // Without link-local addresses of IPv6, whose duplicate detection makes events at its own time.
        sh("ip link set lo up; echo 1 >/proc/sys/net/ipv6/conf/default/addr_gen_mode");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a shell command in the test's namespace and returns its output; a failure of any line of it fails the test.
pub fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-e", "-c", script]).stdin(Stdio::null()).output().expect("sh is needed");
    assert!(
        output.status.success(),
        "{script}\nfailed: {}\n(the tools come by `apt-get install iproute2 iptables conntrack`)",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The JSON of an `ip -json` command.
pub fn ip_json(arguments: &str) -> Vec<serde_json::Value> {
    let text = sh(&format!("ip -json {arguments}"));
    if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text).unwrap() }
}

/// The result of a future that must come soon.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: did not come within {PATIENCE:?}"))
}
