use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Beds' namespaces are called `snt-PID-NUMBER-ROLE`.
const PREFIX: &str = "snt";

/// Removes namespaces and temporary directories of test processes that are gone, waits for the end of its standard input (this process' end, however it comes),
/// then removes what that left.
const SCRIPT: &str = r#"
remove() {
    for pid in $(ip netns pids "$1" 2>/dev/null); do kill -9 "$pid" 2>/dev/null; done
    ip netns del "$1" 2>/dev/null
}
for path in /run/netns/$PREFIX-* "$FILES"/$PREFIX-*; do
    name=${path##*/}; owner=${name#$PREFIX-}; owner=${owner%%-*}
    [ -e "$path" ] && [ ! -d "/proc/$owner" ] || continue
    case $path in
        /run/netns/*) remove "$name" ;;
        *) rm -rf "$path" ;;
    esac
done
cat >/dev/null
for path in /run/netns/$PREFIX-$OWNER-*; do
    [ -e "$path" ] && remove "${path##*/}"
done
# What was killed a moment ago may still write.
for again in 1 2 3 4 5; do
    rm -rf "$FILES"/$PREFIX-$OWNER-* && break
    sleep 0.2
done
"#;

/// The beginning of the names of a new bed's namespaces, and of its directories in the system's temporary one; and from now on somebody who cleans up after this process.
pub fn new_prefix() -> String {
    static REAPER: OnceLock<Child> = OnceLock::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    REAPER.get_or_init(|| {
        Command::new("sh")
            .args(["-c", SCRIPT])
            .env("PREFIX", PREFIX)
            .env("FILES", std::env::temp_dir())
            .env("OWNER", pid.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C at the terminal is for the tests, not for who cleans up after them.
            .process_group(0)
            .spawn()
            .expect("sh is there")
    });
    format!("{PREFIX}-{pid}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
