//! The settings file of the box: what systemd reads as `EnvironmentFile=`, so that a command by hand has the settings of the units.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Names another file; set but empty: none is read.
pub const VARIABLE: &str = "SNCTRLR_ENV_FILE";
/// Where the file is unless [`VARIABLE`] says otherwise. It need not be there.
pub const DEFAULT: &str = "/etc/smartnat/smartnat.env";

/// Variables of the settings file. They stand behind flags and the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettingsFile {
    values: BTreeMap<String, String>,
}

/// Why the settings file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsFileError {
    #[error(
        "the settings file {} cannot be read; run this as root, name another by {VARIABLE}, or set {VARIABLE} to nothing to do without",
        path.display()
    )]
    Read { path: PathBuf, source: io::Error },
    #[error("{}:{line}: {wrong}; a line is NAME=VALUE, a comment begins with #", path.display())]
    Line { path: PathBuf, line: usize, wrong: &'static str },
}

impl SettingsFile {
    /// The file of this box. `named`: the value of [`VARIABLE`].
    pub fn of_this_box(named: Option<PathBuf>) -> Result<Self, SettingsFileError> {
        let (path, must_exist) = match named {
            Some(path) if path.as_os_str().is_empty() => return Ok(Self::default()),
            Some(path) => (path, true),
            None => (PathBuf::from(DEFAULT), false),
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&path, &text),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !must_exist => Ok(Self::default()),
            Err(source) => Err(SettingsFileError::Read { path, source }),
        }
    }

    /// As systemd reads it (systemd.exec(5)), but for values that go on over several lines: those are refused.
    pub fn parse(path: &Path, text: &str) -> Result<Self, SettingsFileError> {
        let mut values = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let bad = |wrong| SettingsFileError::Line { path: path.to_owned(), line: number + 1, wrong };
            let (name, value) = line.split_once('=').ok_or_else(|| bad("there is no = in it"))?;
            let name = name.trim_end();
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(word) || name.starts_with(|c: char| c.is_ascii_digit()) {
                return Err(bad("what stands before = is no name of a variable"));
            }
            values.insert(name.to_owned(), unquote(value.trim_start()).map_err(bad)?);
        }
        Ok(SettingsFile { values })
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
}

/// A value without its quotes: nothing is special between single ones; elsewhere a backslash takes away the meaning of what follows.
fn unquote(value: &str) -> Result<String, &'static str> {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (Some('"'), '\\') => {
                match chars.next().ok_or("it goes on in the next line (\\), which is not supported")? {
                    c @ ('"' | '\\' | '`' | '$') => out.push(c),
                    c => out.extend(['\\', c]),
                }
            }
            (None, '\\') => out.push(chars.next().ok_or("it goes on in the next line (\\), which is not supported")?),
            (_, c) => out.push(c),
        }
    }
    match quote {
        Some(_) => Err("a quote is not closed in it"),
        None => Ok(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SettingsFile, String> {
        SettingsFile::parse(Path::new("box.env"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn values_are_read_as_systemd_reads_them() {
        for (line, value) in [
            ("A=eth[1-9][0-9]*", "eth[1-9][0-9]*"),
            ("A='eth\\d # ;'", "eth\\d # ;"),
            ("A=\"eth\\d \\\" \\$\"", "eth\\d \" $"),
            ("A=eth\\d", "ethd"),
            ("A=", ""),
            (" A = x ", "x"),
            ("A=x # no comment", "x # no comment"),
            ("A=1\nA=2", "2"),
            ("# A=1\n; A=2\n\nA=3", "3"),
        ] {
            assert_eq!(parse(line).unwrap().get("A"), Some(value), "{line}");
        }
        assert_eq!(parse("A=1").unwrap().get("B"), None);
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, part) in [
            ("A=1\nnothing", "box.env:2: there is no ="),
            ("A B=1", "box.env:1: what stands before ="),
            ("1A=1", "box.env:1: what stands before ="),
            ("A='x", "box.env:1: a quote is not closed"),
            ("A=x\\\nB=1", "box.env:1: it goes on"),
        ] {
            let said = parse(text).unwrap_err();
            assert!(said.starts_with(part), "{said}");
        }
    }

    #[test]
    fn a_file_that_is_named_must_be_there_and_none_can_be_asked_for() {
        let missing = SettingsFile::of_this_box(Some("/nowhere/smartnat.env".into())).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/smartnat.env") && missing.contains(VARIABLE), "{missing}");
        assert_eq!(SettingsFile::of_this_box(Some("".into())).unwrap(), SettingsFile::default());
    }
}
