//! A machine that has booted, kept as it was then: what every test would wait for is waited for once.

use std::path::{Path, PathBuf};

use super::image;

/// The state of a running machine, memory and devices in one file and its disk beside it, in the directory of the machine's parts.
/// `tests/appliance/build.sh` removes all of them when it makes another machine.
pub struct Saved {
    dir: PathBuf,
    /// All that it depends on, word for word.
    inputs: String,
}

impl Saved {
    /// The place for a state of this name, which is right for these arguments of QEMU alone: without the directory of the one machine.
    pub fn new(name: &str, arguments: &[String], of: &Path) -> Saved {
        let arguments = arguments.join("\n").replace(&of.display().to_string(), "DIRECTORY");
        // What a tap can do depends on the kernel below, and is part of a NIC's state.
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let machine = std::fs::read_to_string(image::path("stamp")).unwrap_or_default();
        Saved { dir: image::path("states").join(name), inputs: format!("{machine}{kernel}{arguments}\n") }
    }

    /// Whether it is there, made of what a machine is made of now.
    pub fn is_current(&self) -> bool {
        std::fs::read_to_string(self.dir.join("inputs")).is_ok_and(|text| text == self.inputs)
    }

    pub fn memory(&self) -> PathBuf {
        self.dir.join("memory")
    }

    pub fn disk(&self) -> PathBuf {
        self.dir.join("root.ext4")
    }

    /// A file to lock while it is looked at and made.
    pub fn lock(&self) -> PathBuf {
        _ = std::fs::create_dir_all(image::path("states"));
        self.dir.with_extension("lock")
    }

    /// Makes room for it: nothing is there until [`Saved::complete`].
    pub fn begin(&self) {
        _ = std::fs::remove_dir_all(&self.dir);
        std::fs::create_dir_all(&self.dir).unwrap_or_else(|e| panic!("{}: {e}", self.dir.display()));
    }

    /// Memory and disk are in their places.
    pub fn complete(&self) {
        let file = self.dir.join("inputs");
        std::fs::write(&file, &self.inputs).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }
}
