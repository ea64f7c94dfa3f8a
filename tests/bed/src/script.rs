use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a file that can be run at once. Another process does: a descriptor of ours, open for writing, can be for a moment in a child that
/// another thread starts, and what is open for writing cannot be run ("Text file busy").
///
/// # Panics
/// When it cannot be written.
#[track_caller]
pub fn write_executable(path: &Path, content: impl AsRef<[u8]>) {
    let mut install = Command::new("install")
        .args(["-m", "755", "/dev/stdin"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run install: {e}"));
    let written = install.stdin.take().expect("it is piped").write_all(content.as_ref());
    let status = install.wait().expect("a child can be waited for");
    assert!(written.is_ok() && status.success(), "{} cannot be written: {written:?}, {status}", path.display());
}
