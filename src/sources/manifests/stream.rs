//! A YAML stream, cut into its documents before any of them is understood.

/// Where the next line stands.
#[derive(PartialEq)]
enum Place {
    /// Ahead of a document: directives may stand here.
    Prefix,
    /// Behind a directive, which a `---` must follow.
    Directives,
    Document,
}

/// The documents of a YAML stream that hold anything, each with the number of its first line.
///
/// `---` and `...` at the beginning of a line, with white space or nothing behind them, begin and end a document wherever they stand
/// (YAML 1.2.2, 9.1.2: c-forbidden). Directives (`%YAML`, `%TAG`) belong to the document behind them.
pub(super) fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut starts = vec![(1, 0)];
    let mut place = Place::Prefix;
    let mut offset = 0;
    for (i, line) in text.split_inclusive('\n').enumerate() {
        let begins = is_marker(line, "---");
        if begins {
            if place != Place::Directives {
                starts.push((i + 1, offset));
            }
            place = Place::Document;
        }
        offset += line.len();
        if begins {
            continue;
        }
        if is_marker(line, "...") {
            starts.push((i + 2, offset));
            place = Place::Prefix;
        } else if place == Place::Prefix {
            let line = without_mark(line);
            place = match line.chars().next() {
                Some('%') => Place::Directives,
                Some('#') => Place::Prefix,
                _ if line.trim().is_empty() => Place::Prefix,
                _ => Place::Document,
            };
        }
    }
    let ends: Vec<usize> = starts.iter().skip(1).map(|&(_, offset)| offset).chain([text.len()]).collect();
    let found = starts.iter().zip(ends).map(|(&(line, start), end)| (line, &text[start..end]));
    found.filter(|(_, document)| holds_anything(document)).collect()
}

fn is_marker(line: &str, marker: &str) -> bool {
    let rest = without_mark(line).strip_prefix(marker);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// A byte order mark may stand ahead of each document.
fn without_mark(line: &str) -> &str {
    line.strip_prefix('\u{feff}').unwrap_or(line)
}

/// More than comments and markers. Directives alone are a fault, which the parser names.
fn holds_anything(document: &str) -> bool {
    let has_start = document.lines().any(|line| is_marker(line, "---"));
    let mut in_prefix = true;
    document.lines().any(|line| {
        let begins = is_marker(line, "---");
        in_prefix &= !begins;
        let line = without_mark(line);
        let line = if begins { line.strip_prefix("---").unwrap_or(line) } else { line }.trim();
        let is_directive = in_prefix && has_start && line.starts_with('%');
        !(line.is_empty() || line.starts_with('#') || line == "..." || is_directive)
    })
}
