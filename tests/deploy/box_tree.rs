//! A box to install on: a copy of this machine's /etc, an empty /usr/local/bin and an empty /run, in a mount namespace of its own. There is no
//! systemd to talk to in it, so nothing outside can be started or stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

pub type Snapshot = BTreeMap<PathBuf, (u32, u64)>;

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Built with the control plane of the other tests.
pub fn kube_proxy() -> PathBuf {
    let path = repository().join("target/kube/v1.36.3/kube-proxy");
    assert!(path.exists(), "{} is missing: tests/kube/build.sh makes it (tests/run.sh calls it)", path.display());
    path
}

pub struct BoxTree(TempDir);

/// How a run of install.sh ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl BoxTree {
    pub fn new() -> Self {
        let tree = BoxTree(tempfile::tempdir().unwrap());
        fs::set_permissions(tree.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for dir in ["bin", "given"] {
            fs::create_dir(tree.path(dir)).unwrap();
        }
        must(Command::new("cp").args(["-a", "/etc"]).arg(tree.path("etc")));
        must(Command::new("cp").arg("-a").arg(repository().join("deploy")).arg(tree.path("deploy")));
        // Without the debug information, most of which the copying of hundreds of megabytes would be.
        let strip = Command::new("strip")
            .args([env!("CARGO_BIN_EXE_smartnat-manager"), "-o"])
            .arg(tree.path("given/manager"))
            .status();
        assert!(strip.is_ok_and(|status| status.success()), "strip does not work: apt-get install binutils");
        tree.program("given/proxy", "Kubernetes v1.36.3");
        tree
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs deploy/install.sh there. Words of `arguments` are split at blanks; `given/` is where the tree's own files are.
    pub fn install(&self, arguments: &str) -> Ran {
        self.install_as(arguments, "")
    }

    /// `wrapper`: a command that runs it, to change its privileges.
    pub fn install_as(&self, arguments: &str, wrapper: &str) -> Ran {
        let script = "set -e; cd \"$1\"; mount --bind etc /etc; mount --bind bin /usr/local/bin; mount -t tmpfs run /run; exec $2 bash deploy/install.sh $3";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "bash", "-f", "-c", script, "install"]);
        command.arg(self.0.path()).arg(wrapper).arg(arguments);
        let Output { status, stdout, stderr } =
            command.output().expect("unshare of util-linux runs; tests/run.sh installs it");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: status.code(), out: text(stdout), err: text(stderr) }
    }

    /// A program that prints these words and succeeds, whatever it is asked.
    pub fn program(&self, name: &str, words: &str) {
        let source = self.path("given/program.c");
        fs::write(&source, format!("#include <stdio.h>\nint main(void) {{ puts(\"{words}\"); return 0; }}\n")).unwrap();
        must(Command::new("cc").arg("-o").arg(self.path(name)).arg(&source));
    }

    /// Every file, link and directory of the box with its mode and a hash of its content.
    pub fn snapshot(&self) -> Snapshot {
        let mut found = BTreeMap::new();
        for top in ["etc", "bin"] {
            collect(&self.path(top), &mut found);
        }
        found
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}

/// What differs between two snapshots.
pub fn differing(before: &Snapshot, after: &Snapshot) -> Vec<PathBuf> {
    let paths: BTreeSet<&PathBuf> = before.keys().chain(after.keys()).collect();
    paths.into_iter().filter(|path| before.get(*path) != after.get(*path)).cloned().collect()
}

fn collect(path: &Path, found: &mut Snapshot) {
    let meta = fs::symlink_metadata(path).unwrap();
    let content = if meta.is_symlink() {
        fs::read_link(path).unwrap().into_os_string().into_encoded_bytes()
    } else if meta.is_file() {
        fs::read(path).unwrap()
    } else {
        Vec::new()
    };
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    found.insert(path.to_owned(), (meta.permissions().mode(), hasher.finish()));
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), found);
        }
    }
}

pub fn must(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
