//! What each interface is, by its name, its place among the others, and the settings.

use std::collections::{BTreeMap, BTreeSet};

use super::above::{self, Above};
use super::{InterfaceKind, InterfaceOutcome};
use crate::model::{BorderConfig, Host, InterfaceName, Link, UnusableName, check_interface_name, shell_word};

/// The roles of a host's interfaces.
///
/// An exact name in a setting (the gateway's, one of `SNCTRLR_INSIDE_INTERFACES`) wins over the pattern, the pattern over the place above
/// another interface, and that over a prefix.
pub struct Roles<'a> {
    config: &'a BorderConfig,
    host: &'a Host,
    above: Above,
    /// Prefixes that cover interfaces that are not inside, each with these.
    crossed: BTreeMap<&'a str, BTreeSet<InterfaceName>>,
}

impl<'a> Roles<'a> {
    /// `kept` are names of external interfaces known from before.
    pub fn of<'k>(config: &'a BorderConfig, host: &'a Host, kept: impl Iterator<Item = &'k InterfaceName>) -> Self {
        let is_external = |name: &str| is_external(config, name);
        let above = above::above(host, is_external, |name| is_stated(config, name));
        let known: BTreeSet<InterfaceName> = host.links.keys().cloned().chain(kept.cloned()).collect();
        let outside = known.iter().filter(|name| is_external(name) || above.contains_key(*name));
        let mut crossed: BTreeMap<&str, BTreeSet<InterfaceName>> = BTreeMap::new();
        for name in outside {
            for prefix in config.inside_prefixes.iter().filter(|prefix| name.starts_with(prefix.as_str())) {
                crossed.entry(prefix).or_default().insert(name.clone());
            }
        }
        Roles { config, host, above, crossed }
    }

    pub fn is_external(&self, name: &str) -> bool {
        is_external(self.config, name)
    }

    /// Inside, and rules can say so.
    pub fn is_inside(&self, name: &str) -> bool {
        let by_default = !self.is_external(name) && !self.above.contains_key(name);
        let nameable = unusable(name).is_none();
        name == "lo" || is_stated(self.config, name) && nameable || by_default && (nameable || self.is_covered(name))
    }

    /// Prefixes that can stand in rules: iptables would take what is not inside, but begins so, for inside. Of the others the
    /// interfaces that are there are named one by one.
    pub fn prefixes(&self) -> Vec<String> {
        self.config.inside_prefixes.iter().filter(|p| !self.crossed.contains_key(p.as_str())).cloned().collect()
    }

    fn is_covered(&self, name: &str) -> bool {
        self.prefixes().iter().any(|prefix| name.starts_with(prefix.as_str()))
    }

    /// Interfaces above external ones, but for those whose names cannot stand in rules.
    pub fn above(&self) -> impl Iterator<Item = &InterfaceName> {
        self.above.keys().filter(|name| unusable(name).is_none())
    }

    /// What is to be said of an interface that has no slot; `slots` are given.
    pub fn say(&self, name: &str, link: &Link, slots: usize) -> InterfaceOutcome {
        let said = |kind| InterfaceOutcome::present(name, kind, link);
        let renamed = |why: UnusableName| {
            format!(
                "no rule can name it, so nothing passes it: {why}; give it another name (it is number {} of `ip link`)",
                link.index
            )
        };
        if is_stated(self.config, name) {
            let is_gateway = name == self.config.gateway_interface;
            let kind = if is_gateway { InterfaceKind::Gateway } else { InterfaceKind::Inside };
            let problem = unusable(name).map(renamed);
            return InterfaceOutcome {
                problem,
                notes: self.stated(name, is_gateway).into_iter().collect(),
                ..said(kind)
            };
        }
        if self.is_external(name) {
            let full = || {
                format!(
                    "no slot is left for it: {slots} names of external interfaces are known; widen SNCTRLR_MARK_BITS, or stop \
                     the daemon and run `smartnat-manager cleanup` to forget names that are gone"
                )
            };
            let problem = unusable(name).map_or_else(full, renamed);
            return InterfaceOutcome { problem: Some(problem), ..said(InterfaceKind::External) };
        }
        if let Some(below) = self.above.get(name) {
            let below: Vec<InterfaceName> = below.iter().cloned().collect();
            let problem = Some(above_problem(name, link, &below));
            let notes = self.crossing(name).into_iter().collect();
            return InterfaceOutcome { above: below, problem, notes, ..said(InterfaceKind::AboveExternal) };
        }
        match unusable(name) {
            Some(why) if !self.is_covered(name) => {
                InterfaceOutcome { problem: Some(renamed(why)), ..said(InterfaceKind::Closed) }
            }
            _ => said(InterfaceKind::Inside),
        }
    }

    /// What an exact name in a setting overrules.
    fn stated(&self, name: &str, is_gateway: bool) -> Option<String> {
        let setting = if is_gateway { "SNCTRLR_DEFAULT_GW_INTERFACE" } else { "SNCTRLR_INSIDE_INTERFACES" };
        let below = above::below(self.host, name, |other| self.is_external(other));
        let mut overruled = Vec::new();
        if !is_gateway && self.config.external_pattern.is_match(name) {
            overruled.push("SNCTRLR_INTERFACES_PATTERN matches it".to_owned());
        }
        if !below.is_empty() {
            overruled.push(format!("it stands above {}, external by the pattern", joined(&below)));
        }
        (!overruled.is_empty())
            .then(|| format!("inside by {setting}, though {}; leave it, if it is meant so", overruled.join(" and ")))
    }

    /// The prefixes that an external interface, or one above, keeps from being used.
    pub fn crossing(&self, name: &str) -> Option<String> {
        let (prefix, _) = self.crossed.iter().find(|(_, names)| names.contains(name))?;
        Some(format!(
            "SNCTRLR_INSIDE_PREFIXES has {prefix}, which covers it, so that prefix stands in no rule, and interfaces that begin so \
             are inside only once they have been seen; write a prefix that covers only inside interfaces"
        ))
    }

    /// Inside interfaces of the settings that are not there.
    pub fn missing(&self) -> impl Iterator<Item = InterfaceOutcome> {
        let absent = |name: &&InterfaceName| !self.host.links.contains_key(*name);
        let stated = self.config.inside_interfaces.iter().filter(|name| **name != self.config.gateway_interface);
        stated.filter(absent).map(|name| InterfaceOutcome {
            problem: Some(
                "SNCTRLR_INSIDE_INTERFACES names it and it does not exist; correct the name, or bring it up".to_owned(),
            ),
            ..InterfaceOutcome::down(name, InterfaceKind::Inside)
        })
    }
}

fn is_stated(config: &BorderConfig, name: &str) -> bool {
    name == config.gateway_interface || config.inside_interfaces.contains(name)
}

fn is_external(config: &BorderConfig, name: &str) -> bool {
    name != "lo" && !is_stated(config, name) && config.external_pattern.is_match(name)
}

fn unusable(name: &str) -> Option<UnusableName> {
    check_interface_name(name).err()
}

fn above_problem(name: &str, link: &Link, below: &[InterfaceName]) -> String {
    let remedy = match link.stack.kind.as_str() {
        "macvlan" => "take use_vmac out of keepalived's configuration if it is keepalived's, or ",
        _ => "",
    };
    let below = below.join(", ");
    format!(
        "it stands above {below}, which {} external, so it is no inside interface and nothing passes it; {remedy}if it leads to the \
         cluster all the same, add {} to SNCTRLR_INSIDE_INTERFACES; if clients come by it, let SNCTRLR_INTERFACES_PATTERN match it",
        if below.contains(',') { "are" } else { "is" },
        shell_word(name),
    )
}

fn joined(names: &BTreeSet<InterfaceName>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
