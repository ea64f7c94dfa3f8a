use std::path::PathBuf;

/// The version in `tests/kube/go.mod`, with its `v`.
pub fn version() -> &'static str {
    include_str!("../../../kube/go.mod")
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
        .and_then(|rest| rest.split_whitespace().next())
        .expect("tests/kube/go.mod requires k8s.io/kubernetes")
}

/// A program of the control plane, where `tests/kube/build.sh` puts it: in the target directory that this test was built into.
///
/// # Panics
/// When it was not built, with the command that does.
#[track_caller]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let beside = format!("kube/{}/{name}", version());
    let found = test.ancestors().map(|dir| dir.join(&beside)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} {} is not built: run tests/kube/build.sh first", version()))
}
