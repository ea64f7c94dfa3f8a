//! Names that others chose, and where they may stand. Whatever writes a rule, a path or a line for people asks here.

use std::borrow::Cow;
use std::fmt::Write;

/// IFNAMSIZ without the terminator.
pub const MAX_INTERFACE_NAME: usize = 15;
/// ALTIFNAMSIZ without the terminator.
pub const MAX_ALTNAME: usize = 127;

/// Why an interface cannot be named in a rule: nothing that iptables-restore reads means this interface and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnusableName {
    #[error("it is empty")]
    Empty,
    #[error("it has more than {MAX_INTERFACE_NAME} bytes")]
    TooLong,
    #[error("a + at its end means every name that begins so")]
    Wildcard,
    #[error("it begins with {0}, as options and negations do")]
    Option(char),
    #[error("quotes, backslashes, blanks, slashes, colons and control characters mean something else in a rule")]
    Character,
    #[error("it names the kernel's parameters of all interfaces, not one of them")]
    Parameters,
    #[error("no interface can be named so")]
    Impossible,
}

/// Whether a name can be written into a rule, a `/proc/sys` path or a command, so that it means exactly this interface there.
///
/// iptables-restore takes double quotes out of a word, and a `+` at the end of an interface's name as a wildcard; other versions of it
/// read backslashes, and words that begin with `-` or `!`. What is refused here stands in no rule.
pub fn check_interface_name(name: &str) -> Result<(), UnusableName> {
    match name {
        "" => return Err(UnusableName::Empty),
        "." | ".." => return Err(UnusableName::Impossible),
        "all" | "default" => return Err(UnusableName::Parameters),
        _ => {}
    }
    if name.chars().any(|c| matches!(c, '"' | '\'' | '`' | '\\' | '/' | ':') || c.is_whitespace() || is_hidden(c)) {
        return Err(UnusableName::Character);
    }
    if let Some(first @ ('-' | '!')) = name.chars().next() {
        return Err(UnusableName::Option(first));
    }
    if name.ends_with('+') {
        return Err(UnusableName::Wildcard);
    }
    if name.len() > MAX_INTERFACE_NAME {
        return Err(UnusableName::TooLong);
    }
    Ok(())
}

/// The text of a name as the kernel tells it, which need not be UTF-8. No two names have one text: each byte that is not UTF-8
/// becomes `\xNN`, and then a backslash that was there before is doubled.
pub fn name_of_bytes(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.contains('\\')
    {
        return text.to_owned();
    }
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        out += &chunk.valid().replace('\\', "\\\\");
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// A text for a line that people read: what would move the cursor, break the line or turn the reading order is shown escaped.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_hidden) {
        return Cow::Owned(escaped(text, is_hidden));
    }
    Cow::Borrowed(text)
}

/// As [`printable`] for a text of several lines.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    let hidden = |c| is_hidden(c) && !matches!(c, '\n' | '\t');
    if text.chars().any(hidden) {
        return Cow::Owned(escaped(text, hidden));
    }
    Cow::Borrowed(text)
}

/// A JSON document without hidden characters as such: JSON has an escape of its own for them. Line breaks stay: none is within a string.
pub fn printable_json(document: &str) -> String {
    document.chars().fold(String::with_capacity(document.len()), |mut out, c| {
        match is_hidden(c) && c != '\n' {
            // All of them lie in the plane that four digits name. Writing to a String cannot fail.
            true => _ = write!(out, "\\u{:04x}", u32::from(c)),
            false => out.push(c),
        }
        out
    })
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match hidden(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
        out
    })
}

/// Control characters, and those that turn the order of reading or have no width.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// One word of a shell command that is shown as a remedy.
pub fn shell_word(text: &str) -> String {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':' | '@' | '%' | '+' | ',' | '=');
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", printable(text).replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_and_merely_odd_names_can_stand_in_rules() {
        for name in
            ["eth0", "eth1.100", "br-0a1b2c", "cali1+2", "a@b", "#x", "wlan$1", "x!", "büro0", "a=b,c;d|e&f(g)", "*"]
        {
            assert_eq!(check_interface_name(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn names_that_mean_something_else_are_refused() {
        use UnusableName::*;
        for (name, why) in [
            ("cu+", Wildcard),
            ("+", Wildcard),
            ("-j", Option('-')),
            ("!eth0", Option('!')),
            ("a\"b", Character),
            ("a'b", Character),
            ("a\\b", Character),
            ("a b", Character),
            ("a\nb", Character),
            ("a\u{1b}b", Character),
            ("a\u{202e}b", Character),
            ("all", Parameters),
            ("default", Parameters),
            ("", Empty),
            ("..", Impossible),
            ("abcdefghijklmnop", TooLong),
        ] {
            assert_eq!(check_interface_name(name), Err(why), "{name:?}");
        }
    }

    #[test]
    fn no_two_names_of_the_kernel_have_one_text() {
        let names: [&[u8]; 7] = [b"a\xff", b"a\xfe", b"a\\xff", b"a\\\\xff", b"a\xef\xbf\xbd", b"a\\", b"a"];
        let texts: std::collections::BTreeSet<String> = names.iter().map(|n| name_of_bytes(n)).collect();
        assert_eq!(texts.len(), names.len(), "{texts:?}");
        assert_eq!(name_of_bytes(b"a\xff"), "a\\xff");
        assert_eq!(name_of_bytes("büro".as_bytes()), "büro");
    }

    #[test]
    fn nothing_moves_the_cursor_or_breaks_the_line() {
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{9b}d\u{202e}e"), "a\\u{1b}[2Jb\\nc\\u{9b}d\\u{202e}e");
        assert_eq!(printable_lines("a\nb\tc\rd"), "a\nb\tc\\rd");
        assert!(matches!(printable("büro0"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_shell_reads_one_word() {
        assert_eq!(shell_word("eth1"), "eth1");
        assert_eq!(shell_word("a;b$(c)"), "'a;b$(c)'");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
    }
}
