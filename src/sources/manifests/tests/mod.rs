mod directory;
mod parse;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A directory that a test can take away and put back.
pub struct Manifests {
    _root: TempDir,
    pub path: PathBuf,
}

impl Manifests {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("manifests");
        fs::create_dir(&path).unwrap();
        Manifests { _root: root, path }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.file(name)).unwrap();
    }

    pub fn aside(&self) -> PathBuf {
        self.path.with_file_name("aside")
    }
}

pub fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 10.96.0.10, ports: [{{port: 80}}]}}\n"
    )
}

pub const BROKEN: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: broken}\nspec:\n  ports:\n  - port: abc\n";

/// Names of the Services, in order.
pub fn services(objects: &crate::model::Objects) -> Vec<&str> {
    objects.services.keys().map(|k| &*k.name).collect()
}

pub fn starts_with_path(text: &str, path: &Path) -> bool {
    text.starts_with(&path.display().to_string())
}
