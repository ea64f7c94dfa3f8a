//! How YAML from files is read: strict about types, without limits that an ordinary file could meet, and with the place of every error.

use std::fmt;

use serde_saphyr::{Error, MessageFormatter, Options, UserMessageFormatter};

/// Where in a file something is, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl Position {
    pub(super) fn of(location: serde_saphyr::Location) -> Option<Self> {
        let number = |n: u64| usize::try_from(n).ok().filter(|n| *n > 0);
        Some(Position { line: number(location.line())?, column: number(location.column())? })
    }
}

/// Options for files of an administrator: objects by the ten thousand in one document are fine; aliases that multiply are not.
pub(super) fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
            max_total_comment_bytes: usize::MAX,
        },
        emit_comments: false,
        with_snippet: false,
        // As kubectl reads it: an unquoted number or boolean (also yes, no, on, off) is no string.
        no_schema: true,
    }
}

/// Longest part of a line that an error quotes, in characters.
const QUOTED: usize = 80;

/// The place of an error, and its message with the line it stands in.
pub(super) fn explain(error: &Error, text: &str) -> (Option<Position>, String) {
    let error = error.without_snippet();
    let position = error.location().and_then(Position::of);
    let mut message = UserMessageFormatter.format_message(error).into_owned();
    if let Some(line) = position.and_then(|p| text.lines().nth(p.line - 1)) {
        let quoted: String = line.trim().chars().take(QUOTED).collect();
        message.push_str(&format!(", in: {quoted}"));
    }
    (position, message)
}
