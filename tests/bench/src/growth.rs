//! How a cost grows, fitted and plotted.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Cost by number of endpoints, in ascending order.
#[derive(Debug, Clone)]
pub struct Curve {
    pub name: String,
    pub unit: &'static str,
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    /// The exponent of the power of n that fits best, by least squares of the logarithms.
    pub fn exponent(&self) -> f64 {
        let logs: Vec<(f64, f64)> = self.points.iter().map(|(n, cost)| (n.ln(), cost.ln())).collect();
        let count = logs.len() as f64;
        let (x, y) = (logs.iter().map(|l| l.0).sum::<f64>() / count, logs.iter().map(|l| l.1).sum::<f64>() / count);
        let above = logs.iter().map(|l| (l.0 - x) * (l.1 - y)).sum::<f64>();
        above / logs.iter().map(|l| (l.0 - x).powi(2)).sum::<f64>()
    }

    /// From each size to the next: how often the growth of n log n the cost grew. 1 is n log n, what is below is better.
    pub fn against_n_log_n(&self) -> Vec<f64> {
        let pairs = self.points.iter().zip(self.points.iter().skip(1));
        pairs.map(|(a, b)| (b.1 / a.1) / (b.0 * b.0.ln() / (a.0 * a.0.ln()))).collect()
    }

    /// A plot as DIR/FILE.svg, both axes logarithmic, with n log n through the last point.
    pub fn plot(&self, dir: &Path, file: &str) -> Result<(), String> {
        let Some((n, cost)) = self.points.last() else { return Ok(()) };
        let mut script = format!(
            "set terminal svg size 640,400 font 'sans-serif,13' background 'white'\nset output '{}'\n\
             set logscale xy\nset grid\nset key top left\nset format x '10^{{%T}}'\n\
             set xlabel 'endpoints'\nset ylabel '{} ({})'\n$points << END\n",
            dir.join(file).with_extension("svg").display(),
            self.name,
            self.unit
        );
        self.points.iter().for_each(|(n, cost)| _ = writeln!(script, "{n} {cost}"));
        _ = writeln!(
            script,
            "END\nplot [{}:{}] $points with linespoints linewidth 2 pointtype 7 title 'measured: n^{{{:.2}}}', \
             {cost} * x * log(x) / ({n} * log({n})) with lines dashtype 2 title 'n log n'",
            self.points[0].0 * 0.7,
            n * 1.4,
            self.exponent()
        );
        let input = dir.join(file).with_extension("gnuplot");
        fs::write(&input, script).map_err(|e| format!("{}: {e}", input.display()))?;
        let output = Command::new("gnuplot").arg(&input).output().map_err(|e| format!("gnuplot: {e}"))?;
        _ = fs::remove_file(&input);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(cost: impl Fn(f64) -> f64) -> Curve {
        let points = [100.0, 1000.0, 10_000.0].map(|n| (n, cost(n))).to_vec();
        Curve { name: "x".to_owned(), unit: "s", points }
    }

    #[test]
    fn a_power_is_found_and_judged_against_n_log_n() {
        let square = curve(|n| 3.0 * n * n);
        assert!((square.exponent() - 2.0).abs() < 1e-9);
        assert!(square.against_n_log_n().iter().all(|times| *times > 5.0));
        let fitting = curve(|n| n * n.ln());
        assert!(fitting.against_n_log_n().iter().all(|times| (times - 1.0).abs() < 1e-9));
    }
}
