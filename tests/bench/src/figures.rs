use std::fmt::Write as _;
use std::time::Instant;

/// Characters of a reason.
const LONGEST: usize = 300;

/// What a figure must reach.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// Shown for comparison.
    None,
}

/// One line of the table.
#[derive(Debug)]
struct Figure {
    row: String,
    what: String,
    unit: &'static str,
    bound: Bound,
    /// Of every round; or why there is none.
    values: Result<Vec<f64>, String>,
}

/// What was measured so far.
#[derive(Debug)]
pub struct Figures {
    begin: Instant,
    figures: Vec<Figure>,
}

impl Figures {
    pub fn new() -> Figures {
        Figures { begin: Instant::now(), figures: Vec::new() }
    }

    /// Says on stderr what happens now.
    pub fn say(&self, text: impl std::fmt::Display) {
        let s = self.begin.elapsed().as_secs();
        eprintln!("[{:2}:{:02}] {text}", s / 60, s % 60);
    }

    /// A figure of several rounds.
    pub fn add(&mut self, row: &str, what: &str, unit: &'static str, bound: Bound, values: Vec<f64>) {
        let values = if values.is_empty() { Err("nothing was measured".to_owned()) } else { Ok(values) };
        self.put(Figure { row: row.to_owned(), what: what.to_owned(), unit, bound, values });
    }

    /// A figure that could not be had.
    pub fn fail(&mut self, row: &str, what: &str, why: &str) {
        let why = why.replace(['\n', '|'], " ").chars().take(LONGEST).collect();
        self.put(Figure { row: row.to_owned(), what: what.to_owned(), unit: "", bound: Bound::None, values: Err(why) });
    }

    fn put(&mut self, figure: Figure) {
        self.say(format_args!("  {}: {}", figure.row, figure.told()));
        self.figures.push(figure);
    }

    /// Whether every figure reaches its bound.
    pub fn passed(&self) -> bool {
        self.figures.iter().all(|f| f.verdict() != "FAIL")
    }

    /// A table in Markdown.
    pub fn table(&self) -> String {
        let mut out = "| figure | must reach | median | spread | |\n| --- | --- | --- | --- | --- |\n".to_owned();
        for f in &self.figures {
            let name = format!("{}: {}", f.row, f.what);
            _ = match &f.values {
                Ok(_) => {
                    let (low, high) = f.spread();
                    let spread = if f.count() > 1 {
                        format!("{} to {} ({})", number(low), number(high), f.count())
                    } else {
                        "once".to_owned()
                    };
                    let median = number(f.median());
                    writeln!(out, "| {name} | {} | {median} {} | {spread} | {} |", f.must(), f.unit, f.verdict())
                }
                Err(why) => writeln!(out, "| {name} | | {why} | | FAIL |"),
            };
        }
        out
    }
}

impl Figure {
    fn count(&self) -> usize {
        self.values.as_ref().map_or(0, Vec::len)
    }

    fn median(&self) -> f64 {
        self.values.as_ref().map_or(f64::NAN, |v| median(v))
    }

    fn spread(&self) -> (f64, f64) {
        let values = self.values.as_deref().unwrap_or_default();
        (values.iter().copied().fold(f64::NAN, f64::min), values.iter().copied().fold(f64::NAN, f64::max))
    }

    fn must(&self) -> String {
        match self.bound {
            Bound::AtMost(n) => format!("<= {}", number(n)),
            Bound::AtLeast(n) => format!(">= {}", number(n)),
            Bound::None => String::new(),
        }
    }

    fn verdict(&self) -> &'static str {
        let reached = match (self.bound, &self.values) {
            (_, Err(_)) => false,
            (Bound::AtMost(n), Ok(_)) => self.median() <= n,
            (Bound::AtLeast(n), Ok(_)) => self.median() >= n,
            (Bound::None, Ok(_)) => return "",
        };
        if reached { "PASS" } else { "FAIL" }
    }

    fn told(&self) -> String {
        match &self.values {
            Ok(_) => {
                let (low, high) = self.spread();
                let (median, low, high) = (number(self.median()), number(low), number(high));
                format!("{} {median} {} ({low} to {high}) {} {}", self.what, self.unit, self.must(), self.verdict())
            }
            Err(why) => format!("{} FAIL: {why}", self.what),
        }
    }
}

/// Of the middle, or of both that are nearest to it.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 { f64::NAN } else { f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]) }
}

/// The value that this share of all is not above.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// Three digits that count.
pub fn number(n: f64) -> String {
    match n.abs() {
        a if a >= 10_000.0 => {
            let whole = format!("{n:.0}");
            let mut out = String::new();
            for (i, c) in whole.chars().enumerate() {
                if i > 0 && (whole.len() - i) % 3 == 0 && c.is_ascii_digit() {
                    out.push(',');
                }
                out.push(c);
            }
            out
        }
        a if a >= 100.0 => format!("{n:.0}"),
        a if a >= 10.0 => trimmed(format!("{n:.1}")),
        _ => trimmed(format!("{n:.2}")),
    }
}

fn trimmed(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles_of_few_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.99)), (100.0, 198.0));
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        let told: Vec<String> = [0.0, 0.754, 2.5, 12.34, 123.4, 1234.0, 215_000.0].iter().map(|n| number(*n)).collect();
        assert_eq!(told, ["0", "0.75", "2.5", "12.3", "123", "1234", "215,000"]);
    }

    #[test]
    fn a_figure_without_values_fails_and_one_beyond_its_bound_too() {
        let mut figures = Figures::new();
        figures.add("a", "x", "s", Bound::AtMost(2.0), vec![1.0, 2.0, 9.0]);
        figures.add("a", "y", "s", Bound::None, vec![1.0]);
        assert!(figures.passed());
        figures.add("a", "z", "", Bound::AtLeast(0.75), vec![0.7]);
        assert!(!figures.passed());
        let mut figures = Figures::new();
        figures.fail("a", "x", "never ready");
        assert!(!figures.passed());
        assert!(figures.table().contains("| a: x | | never ready | | FAIL |"));
    }
}
