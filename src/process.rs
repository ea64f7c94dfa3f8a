//! Programs that we start, and their end: a child leads a process group of its own, and nothing of that group outlives the call.
//!
//! A time limit that only stops waiting leaves the program running, one more at each try. Here the group is killed when the leader ends,
//! at the limit, and when whoever waits is dropped (as at our own end). Only what leaves the group on purpose (a session of its own)
//! goes on; it cannot keep us waiting either.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// For what the leader has written to be read, should a process outside of its group hold the pipe.
const DRAIN: Duration = Duration::from_millis(500);
/// What a program may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub time: Duration,
    /// Bytes, of stdout and of stderr each. A program that writes without end must not fill our memory.
    pub output: u64,
}

/// Why a program brought no output.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("it could not be started")]
    Start(#[source] io::Error),
    #[error("it could not be waited for")]
    Wait(#[source] io::Error),
    #[error("it did not end in time")]
    Timeout,
    #[error("it wrote more than it may")]
    TooMuch,
}

/// Runs a program to its end, within its limits. `started` hears its process id.
pub async fn run(
    mut command: Command,
    input: Option<&str>,
    limits: Limits,
    started: impl FnOnce(u32),
) -> Result<Output, RunError> {
    // Listening begins before there is a child, so that no end is missed.
    let mut ends = signal(SignalKind::child()).map_err(RunError::Start)?;
    command
        .process_group(0)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut group = Group::of(command.spawn().map_err(RunError::Start)?);
    started(group.leader.as_raw().unsigned_abs());

    let (stdin, stdout, stderr) = (group.child.stdin.take(), group.child.stdout.take(), group.child.stderr.take());
    let mut output = (Vec::new(), Vec::new());
    let talk = async {
        let feed = async {
            if let (Some(mut stdin), Some(text)) = (stdin, input) {
                // A program that ends early closes the pipe: its exit status tells more than the broken pipe.
                let _ = stdin.write_all(text.as_bytes()).await;
            }
            Ok(())
        };
        tokio::try_join!(feed, read(stdout, limits.output, &mut output.0), read(stderr, limits.output, &mut output.1))
            .map(drop)
    };
    let status = tokio::time::timeout(limits.time, async {
        let mut talk = std::pin::pin!(talk);
        let heard = tokio::select! {
            heard = &mut talk => Some(heard?),
            () = group.leader_ended(&mut ends) => None,
        };
        group.leader_ended(&mut ends).await;
        group.kill();
        if heard.is_none()
            && let Ok(late) = tokio::time::timeout(DRAIN, talk).await
        {
            late?;
        }
        group.child.wait().await.map_err(RunError::Wait)
    })
    .await
    .map_err(|_| RunError::Timeout)??;
    Ok(Output { status, stdout: output.0, stderr: output.1 })
}

/// What came is kept, whatever ends the reading.
async fn read(pipe: Option<impl tokio::io::AsyncRead + Unpin>, limit: u64, into: &mut Vec<u8>) -> Result<(), RunError> {
    if let Some(pipe) = pipe {
        let _ = pipe.take(limit + 1).read_to_end(into).await;
    }
    if into.len() as u64 > limit { Err(RunError::TooMuch) } else { Ok(()) }
}

/// A process group, killed on drop.
struct Group {
    child: Child,
    leader: Pid,
    killed: bool,
}

impl Group {
    fn of(child: Child) -> Self {
        // A child that was not waited for has its process id still.
        let leader = Pid::from_raw(child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default());
        Group { child, leader, killed: leader.as_raw() <= 0 }
    }

    /// Until the leader has ended. It is not reaped: as long as it is a zombie nobody else gets the group's number.
    async fn leader_ended(&self, ends: &mut tokio::signal::unix::Signal) {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while !self.killed && matches!(waitid(Id::Pid(self.leader), flags), Ok(WaitStatus::StillAlive)) {
            if ends.recv().await.is_none() {
                return;
            }
        }
    }

    fn kill(&mut self) {
        if !std::mem::replace(&mut self.killed, true) {
            // Fails only when nothing of it is left.
            let _ = killpg(self.leader, Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    /// The runtime reaps the leader.
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use super::*;

    const LONG: Limits = Limits { time: Duration::from_secs(60), output: 16 << 20 };

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// A script that writes the process ids of itself and of a child of its own.
    fn family(file: &Path, end: &str) -> Command {
        sh(&format!("sleep 600 & echo $$ $! > {0}.new; mv {0}.new {0}; {end}", file.display()))
    }

    async fn pids(file: &Path) -> Vec<String> {
        loop {
            if let Ok(text) = std::fs::read_to_string(file) {
                return text.split_whitespace().map(str::to_owned).collect();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Until it is gone; a zombie that nobody has reaped yet runs no more.
    async fn gone(pid: &str) {
        let lives = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
        };
        let begun = Instant::now();
        while lives() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{pid} lives");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn at_the_limit_the_whole_group_ends() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pids");
        let error = run(family(&file, "wait"), None, Limits { time: Duration::from_secs(1), ..LONG }, |_| ())
            .await
            .unwrap_err();
        assert!(matches!(error, RunError::Timeout), "{error:?}");
        for pid in pids(&file).await {
            gone(&pid).await;
        }
    }

    #[tokio::test]
    async fn whoever_gives_up_waiting_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pids");
        // A leader that ignores what asks it to end, too.
        let waiting = tokio::spawn(run(family(&file, "trap '' TERM INT HUP; wait"), None, LONG, |_| ()));
        let pids = pids(&file).await;
        waiting.abort();
        for pid in pids {
            gone(&pid).await;
        }
    }

    #[tokio::test]
    async fn a_grandchild_that_holds_the_pipe_neither_hangs_us_nor_lives_on() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pids");
        let output = run(family(&file, "echo answer; exit 3"), None, LONG, |_| ()).await.unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), b"answer\n".as_slice()));
        for pid in pids(&file).await {
            gone(&pid).await;
        }
    }

    #[tokio::test]
    async fn what_left_the_group_on_purpose_does_not_keep_us_waiting() {
        let begun = Instant::now();
        let output = run(sh("setsid sleep 30 & echo answer"), None, LONG, |_| ()).await.unwrap();
        assert_eq!(output.stdout, b"answer\n");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[tokio::test]
    async fn output_and_errors_are_read_while_much_is_fed() {
        let text = "0123456789abcdef\n".repeat(100_000);
        let output = run(sh("tee /dev/stderr; exit 1"), Some(&text), LONG, |_| ()).await.unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len()), (text.len(), text.len()));
        assert_eq!(output.status.code(), Some(1));
    }

    #[tokio::test]
    async fn one_that_writes_without_end_is_ended_at_once_on_whichever_pipe() {
        for redirect in ["", ">&2"] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("pids");
            let begun = Instant::now();
            let endless = family(&file, &format!("trap '' PIPE; while :; do echo more {redirect}; done"));
            let error = run(endless, None, Limits { output: 10_000, ..LONG }, |_| ()).await.unwrap_err();
            assert!(matches!(error, RunError::TooMuch), "{error:?}");
            assert!(begun.elapsed() < Duration::from_secs(20));
            for pid in pids(&file).await {
                gone(&pid).await;
            }
        }
        let exact = run(sh("printf 0123456789"), None, Limits { output: 10, ..LONG }, |_| ()).await.unwrap();
        assert_eq!(exact.stdout, b"0123456789");
    }

    #[tokio::test]
    async fn a_program_that_reads_nothing_and_ends_is_no_error_of_the_pipe() {
        let text = "x".repeat(1 << 20);
        let output = run(sh("exec <&-; echo no >&2; exit 2"), Some(&text), LONG, |_| ()).await.unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(2), b"no\n".as_slice()));
    }
}
