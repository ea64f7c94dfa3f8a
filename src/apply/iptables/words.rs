//! The words of a rule as iptables prints it.

/// Words outside of double quotes (a comment may contain anything).
pub fn unquoted_words(rule: &str) -> impl Iterator<Item = &str> {
    words(rule).filter(|word| !word.starts_with('"'))
}

/// All words; one in double quotes with its quotes, whatever it contains.
pub fn words(rule: &str) -> impl Iterator<Item = &str> + Clone {
    let mut rest = rule;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(' ');
        if rest.is_empty() {
            return None;
        }
        let end = match rest.strip_prefix('"') {
            Some(quoted) => closing(quoted).map_or(rest.len(), |end| end + 2),
            None => rest.find(' ').unwrap_or(rest.len()),
        };
        let (word, tail) = rest.split_at(end);
        rest = tail;
        Some(word)
    })
}

/// Where the quote ends that was opened ahead of this text.
fn closing(quoted: &str) -> Option<usize> {
    let mut escaped = false;
    quoted.find(|c| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    })
}
