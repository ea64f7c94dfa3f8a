use std::borrow::Cow;

use crate::model::printable;

/// Cells that are wider do not push all other rows aside: an interface may have thousands of addresses.
const WIDEST: usize = 200;

/// Rows as text columns, each as wide as its widest cell; the last one is not padded. Empty without rows.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    // A line break in a cell would make a row that nobody wrote.
    let rows: Vec<Vec<Cow<'_, str>>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    if rows.is_empty() {
        return String::new();
    }
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count().min(WIDEST));
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut out = line(&mut header.iter().copied());
    for row in &rows {
        out += &line(&mut row.iter().map(AsRef::as_ref));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |a: &str, b: &str, c: &str| vec![a.to_owned(), b.to_owned(), c.to_owned()];
        let text = table(&["NAME", "X", "WHY"], &[row("é", "12", ""), row("longer", "3", "a b")]);
        assert_eq!(text, "NAME    X   WHY\né       12\nlonger  3   a b\n");
        // More than a format string can pad to.
        let many = "203.0.113.10,".repeat(10_000);
        let text = table(&["NAME", "WHY"], &[row(&many, "x", "")[..2].to_vec(), row("eth2", "y", "")[..2].to_vec()]);
        assert!(text.contains(&format!("{many}  x\neth2 ")) && text.len() < many.len() + 3 * WIDEST, "{}", text.len());
        assert_eq!(table(&["NAME"], &[]), "");
        assert_eq!(table(&["NAME"], &[vec!["a\nroot  yes\u{1b}[2J".to_owned()]]), "NAME\na\\nroot  yes\\u{1b}[2J\n");
    }
}
