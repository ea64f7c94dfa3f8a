//! The words of a rule as iptables prints it.

use std::borrow::Cow;

/// Words outside of double quotes (a comment may contain anything).
pub fn unquoted_words(rule: &str) -> impl Iterator<Item = &str> {
    words(rule).filter(|word| !word.starts_with('"'))
}

/// All words; one in double quotes with its quotes, whatever it contains. The tool prints names of interfaces as they are: a double quote
/// in one is no quote.
pub fn words(rule: &str) -> impl Iterator<Item = &str> + Clone {
    let mut rest = rule;
    let mut is_name = false;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(' ');
        if rest.is_empty() {
            return None;
        }
        let end = match rest.strip_prefix('"').filter(|_| !is_name) {
            Some(quoted) => closing(quoted).map_or(rest.len(), |end| end + 2),
            None => rest.find(' ').unwrap_or(rest.len()),
        };
        let (word, tail) = rest.split_at(end);
        rest = tail;
        is_name = !is_name && matches!(word, "-i" | "-o");
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

/// A rule as the tool printed it, in the words that the tool reads: double quotes in names of interfaces are quoted.
pub fn readable(rule: &str) -> Cow<'_, str> {
    let options = words(rule).zip(words(rule).skip(1));
    let odd = options.filter(|(option, name)| matches!(*option, "-i" | "-o") && name.contains('"'));
    odd.fold(Cow::Borrowed(rule), |text, (option, name)| {
        let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
        Cow::Owned(text.replacen(&format!("{option} {name} "), &format!("{option} \"{quoted}\" "), 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_in_the_name_of_an_interface_are_no_quotes_in_a_listing() {
        let rule = r#"-i "a\ -o b"c -m comment --comment "x \" -i y" -j SMARTNAT-A"#;
        let expected =
            ["-i", r#""a\"#, "-o", r#"b"c"#, "-m", "comment", "--comment", r#""x \" -i y""#, "-j", "SMARTNAT-A"];
        assert_eq!(words(rule).collect::<Vec<_>>(), expected);
        assert_eq!(readable(rule), r#"-i "\"a\\" -o "b\"c" -m comment --comment "x \" -i y" -j SMARTNAT-A"#);
        assert!(matches!(readable("-i eth1 -j SMARTNAT-A"), Cow::Borrowed(_)));
    }
}
