//! Log entries reach the systemd journal with their fields. A socket of our own stands in for the journal's, in a mount namespace of the
//! program's own. Needs root (unshare --mount).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Fields of one datagram in the journal's native protocol: `NAME=value\n`, or `NAME\n`, 64 bits of length, value, `\n`.
fn fields(mut datagram: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while !datagram.is_empty() {
        let end = datagram.iter().position(|b| *b == b'\n').expect("a line end");
        let line = std::str::from_utf8(&datagram[..end]).unwrap();
        datagram = &datagram[end + 1..];
        if let Some((name, value)) = line.split_once('=') {
            fields.insert(name.to_owned(), value.to_owned());
            continue;
        }
        let (length, rest) = datagram.split_at(8);
        let length = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
        fields.insert(line.to_owned(), String::from_utf8(rest[..length].to_vec()).unwrap());
        datagram = &rest[length + 1..];
    }
    fields
}

#[test]
fn entries_reach_the_journal_with_priority_message_and_fields() {
    let run = tempfile::tempdir().unwrap();
    let directory = run.path().join("systemd/journal");
    std::fs::create_dir_all(&directory).unwrap();
    let journal = UnixDatagram::bind(directory.join("socket")).unwrap();
    journal.set_read_timeout(Some(Duration::from_secs(20))).unwrap();

    // systemd names the stream that it connected to stderr by device and inode.
    let stderr = File::create(run.path().join("stderr")).unwrap();
    let stream = stderr.metadata().map(|m| format!("{}:{}", m.dev(), m.ino())).unwrap();
    let ended = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            r#"mount --bind "$1" /run && exec "$2" status"#,
            "sh",
        ])
        .arg(run.path())
        .arg(env!("CARGO_BIN_EXE_smartnat-manager"))
        .env("JOURNAL_STREAM", stream)
        .env("RUST_LOG", "smartnat=loud")
        // Nobody listens there: the program ends at once, after a warning about RUST_LOG.
        .env("SNCTRLR_MONITOR_PORT", "1")
        .stdout(Stdio::null())
        .stderr(stderr)
        .status()
        .expect("unshare is part of util-linux: apt-get install util-linux");
    let said = std::fs::read_to_string(run.path().join("stderr")).unwrap();
    assert_eq!(ended.code(), Some(1), "needs root (unshare --mount): {said}");
    assert!(said.contains("no daemon answers") && !said.contains("RUST_LOG"), "{said}");

    let mut datagram = vec![0; 65_536];
    // The logger tries the socket with an empty datagram first.
    let length = std::iter::repeat_with(|| journal.recv(&mut datagram).expect("an entry")).find(|length| *length > 0);
    let entry = fields(&datagram[..length.unwrap()]);
    assert_eq!(entry["PRIORITY"], "4", "{entry:?}");
    assert_eq!(entry["RUST_LOG"], "smartnat=loud", "{entry:?}");
    assert!(entry["MESSAGE"].starts_with("RUST_LOG is not used"), "{entry:?}");
    assert_eq!(entry["TARGET"], "smartnat::report::logging");
    assert_eq!(entry["SYSLOG_IDENTIFIER"], "smartnat-manager");
}
