use std::fs;
use std::process::Command;

/// Where and when this was measured, in one sentence.
pub fn described(revision: &str) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let said = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output();
        output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let cpuinfo = read("/proc/cpuinfo");
    let models: Vec<&str> = cpuinfo.lines().filter_map(|line| line.strip_prefix("model name")).collect();
    let model = models.first().map_or("unknown", |m| m.trim_start_matches([' ', '\t', ':']));
    let meminfo = read("/proc/meminfo");
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    format!(
        "Measured on {} with {revision}: {} cores ({model}), {:.0} GiB of memory, Linux {}, {}; load before: {}.",
        said("date", "-I"),
        models.len(),
        kib.unwrap_or(f64::NAN) / 1024.0 / 1024.0,
        kernel.trim(),
        said("iptables", "--version"),
        load.split(' ').next().unwrap_or("unknown")
    )
}
