use std::path::{Path, PathBuf};
use std::process::Command;

/// A part of the machine, where `tests/appliance/build.sh` puts it: in the target directory that this test was built into.
///
/// # Panics
/// When it was not built, with the command that does.
#[track_caller]
pub fn path(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let found = test.ancestors().map(|dir| dir.join("appliance")).find(|dir| dir.join("stamp").is_file());
    found.expect("the machine of the appliance tests is not built: run tests/appliance/build.sh first").join(name)
}

/// QEMU through its own loader, with its own libraries and firmware.
#[track_caller]
pub fn qemu() -> Command {
    let root = path("qemu");
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(&libraries).arg(root.join("usr/bin/qemu-system-x86_64"));
    for firmware in ["qemu", "seabios"] {
        command.arg("-L").arg(root.join("usr/share").join(firmware));
    }
    command
}

/// A disk of its own: what a machine writes to it lasts as long as the test.
#[track_caller]
pub fn copy_disk(from: &Path, to: &Path) {
    must(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(from).arg(to));
}

/// A disk with the content of a directory, and a label to find it by.
#[track_caller]
pub fn make_disk(label: &str, from: &Path, to: &Path) {
    let size = Command::new("du").args(["-sm", "--apparent-size"]).arg(from).output();
    let size = size.ok().and_then(|o| String::from_utf8(o.stdout).ok()?.split_whitespace().next()?.parse::<u64>().ok());
    let size = size.unwrap_or_else(|| panic!("du cannot tell the size of {}", from.display())) + 32;
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-L", label, "-m", "0", "-d"]).arg(from).arg(to).arg(format!("{size}M"));
    must(&mut command);
}

#[track_caller]
fn must(command: &mut Command) {
    let output =
        command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}; apt-get install -y e2fsprogs"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
