//! What the documentation says of the repository itself is true.

use std::fs;
use std::path::Path;

/// Tests named in a text as `FILE::NAME`, in backquotes.
fn named_tests(text: &str) -> Vec<(&str, &str)> {
    text.split('`').skip(1).step_by(2).filter_map(|word| word.split_once(".rs::").map(|_| word)).map(split).collect()
}

fn split(word: &str) -> (&str, &str) {
    word.split_once("::").expect("it was found by its colons")
}

/// Whether a file has a test of that name: the attribute stands right before the function.
fn has_test(source: &str, name: &str) -> bool {
    let signature = format!("fn {name}(");
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    lines.iter().enumerate().any(|(n, line)| {
        let attributes = lines[..n].iter().rev().take_while(|l| l.starts_with("#["));
        line.trim_start_matches("async ").starts_with(&signature)
            && attributes.into_iter().any(|l| matches!(*l, "#[test]" | "#[tokio::test]"))
    })
}

#[test]
fn every_defect_of_the_first_smartnat_has_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/design/first-smartnat.md")).unwrap();
    for defect in 1..=13 {
        let row = text.lines().find(|line| line.starts_with(&format!("| {defect} |")));
        let tests = named_tests(row.unwrap_or_else(|| panic!("defect {defect} has no row")));
        assert!(!tests.is_empty(), "defect {defect} names no test");
        for (file, name) in tests {
            let source = fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("defect {defect}: {file}: {e}"));
            assert!(has_test(&source, name), "defect {defect}: {file} has no test {name}");
        }
    }
}

#[test]
fn a_function_that_is_no_test_or_is_called_otherwise_does_not_count() {
    let source = "#[test]\nfn one() {}\n    #[tokio::test]\n    async fn two() {}\nfn three() {}\n#[test]\n#[ignore]\nfn four() {}\n";
    for (name, found) in [("one", true), ("two", true), ("three", false), ("four", true), ("on", false)] {
        assert_eq!(has_test(source, name), found, "{name}");
    }
    assert_eq!(
        named_tests("| 1 | x `a` | `tests/x.rs::y`, `src/z.rs::q_r` |"),
        [("tests/x.rs", "y"), ("src/z.rs", "q_r")]
    );
}
