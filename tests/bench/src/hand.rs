//! The same tables loaded by hand, in the best known way: blocks of a hundred chains, leaves before what leads to them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::cgroup::Cgroup;
use crate::net::{Border, Dump};

const CHAINS_PER_BLOCK: usize = 100;

/// Wall time and processor time.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub wall: Duration,
    pub processor: Duration,
}

/// Loads a dump into a border that has nothing yet.
pub fn load(border: &Border, dump: &Dump) -> Cost {
    let cgroup = Cgroup::new();
    let jobs =
        [("ipset", dump.sets.clone()), ("iptables-restore", blocks(&dump.v4)), ("ip6tables-restore", blocks(&dump.v6))];
    let begin = Instant::now();
    for (program, input) in jobs {
        let mut command = cgroup.command("ip");
        command.args(["netns", "exec", border.ns.name(), program]);
        command.arg(if program == "ipset" { "restore" } else { "--noflush" });
        let mut child = command.stdin(Stdio::piped()).spawn().expect("sh is there");
        child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("the tool reads its input");
        let status = child.wait().expect("a child can be waited for");
        assert!(status.success(), "{program}: {status}");
    }
    Cost { wall: begin.elapsed(), processor: cgroup.used() }
}

#[derive(Default)]
struct Chain<'a> {
    policy: &'a str,
    rules: Vec<&'a str>,
    targets: Vec<&'a str>,
}

/// What iptables-save printed (several tables), for iptables-restore --noflush.
fn blocks(save: &str) -> String {
    let mut out = String::with_capacity(save.len() + save.len() / 8);
    let mut chains: BTreeMap<&str, Chain<'_>> = BTreeMap::new();
    let mut table = "";
    for line in save.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split(' ');
            let name = words.next().unwrap_or_default();
            chains.entry(name).or_default().policy = words.next().unwrap_or("-");
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let chain = chains.entry(rule.split(' ').next().unwrap_or_default()).or_default();
            chain.rules.push(line);
            let mut words = rule.split(' ').skip_while(|w| *w != "-j" && *w != "-g");
            chain.targets.extend(words.nth(1));
        } else if line == "COMMIT" {
            write_table(&mut out, table, &std::mem::take(&mut chains));
        }
    }
    out
}

fn write_table<'a>(out: &mut String, table: &str, chains: &BTreeMap<&'a str, Chain<'a>>) {
    let mut levels = HashMap::new();
    chains.keys().for_each(|name| _ = level(name, chains, &mut levels));
    let mut own: Vec<&str> = chains.iter().filter(|(_, c)| c.policy == "-").map(|(name, _)| *name).collect();
    own.sort_by(|a, b| levels[a].cmp(&levels[b]).then(b.cmp(a)));
    let built_in: Vec<&str> = chains.iter().filter(|(_, c)| c.policy != "-").map(|(name, _)| *name).collect();
    let mut pieces: Vec<&[&str]> = own.chunks(CHAINS_PER_BLOCK).collect();
    pieces.push(&built_in);
    for piece in pieces {
        _ = writeln!(out, "*{table}");
        piece.iter().for_each(|name| _ = writeln!(out, ":{name} {} [0:0]", chains[name].policy));
        for rule in piece.iter().flat_map(|name| &chains[name].rules) {
            _ = writeln!(out, "{rule}");
        }
        out.push_str("COMMIT\n");
    }
}

/// The longest way from a chain to one that leads nowhere.
fn level<'a>(name: &'a str, chains: &BTreeMap<&'a str, Chain<'a>>, known: &mut HashMap<&'a str, usize>) -> usize {
    if let Some(level) = known.get(name) {
        return *level;
    }
    let targets = chains.get(name).map_or(&[][..], |c| &c.targets[..]);
    let deepest = targets.iter().filter(|t| chains.contains_key(**t)).map(|t| level(t, chains, known) + 1).max();
    known.insert(name, deepest.unwrap_or_default());
    deepest.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_come_first_and_built_in_chains_last() {
        let save = "# by hand\n*nat\n:PREROUTING ACCEPT [1:2]\n:A - [0:0]\n:B - [0:0]\n:C - [0:0]\n-A PREROUTING -j A\n\
                    -A A -s 192.0.2.1 -g B\n-A A -j C\n-A B -j ACCEPT\nCOMMIT\n";
        assert_eq!(
            blocks(save),
            "*nat\n:C - [0:0]\n:B - [0:0]\n:A - [0:0]\n-A B -j ACCEPT\n-A A -s 192.0.2.1 -g B\n-A A -j C\nCOMMIT\n\
             *nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j A\nCOMMIT\n"
        );
    }
}
