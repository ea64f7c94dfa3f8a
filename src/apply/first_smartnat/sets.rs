//! Its ipsets.

use super::names::is_set;
use crate::apply::ipset::destroy;
use crate::apply::tool::{ToolError, Tools};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) names: Vec<String>,
    /// Sets of its names that it cannot have made, with the reason.
    pub(super) left: Vec<String>,
}

pub(super) async fn look(tools: &Tools) -> Result<Found, ToolError> {
    Ok(parse(&tools.read("ipset", &["save"]).await?))
}

fn parse(save: &str) -> Found {
    let mut found = Found::default();
    for line in save.lines() {
        let Some((name, header)) = line.strip_prefix("create ").and_then(|rest| rest.split_once(' ')) else { continue };
        if !is_set(name) {
            continue;
        }
        // It made hash:ip for pods and hash:net,port for sources, in IPv4.
        let kind = header.split(' ').next().unwrap_or_default();
        if kind.starts_with("hash:") && header.contains(" family inet ") {
            found.names.push(name.to_owned());
        } else {
            found.left.push(format!("set {name} ({header}): it made sets of IPv4 addresses (hash:...) only"));
        }
    }
    found
}

/// Destroys the sets; returns those that somebody uses.
pub(super) async fn remove(tools: &Tools, names: &[String]) -> Result<Vec<String>, ToolError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<_> = names.iter().map(|name| name.as_str().into()).collect();
    Ok(destroy(tools, &names, true).await?.iter().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_taken_for_its_own_by_name_and_type_together() {
        let found = parse(
            "create QKZ232OQBTIWIKSNIIHGODLM hash:ip family inet hashsize 1024 maxelem 65536 counters comment\n\
             create DNAT-QKZ232OQBTIWIKSNIIHGODLM hash:net,port family inet hashsize 1024 maxelem 65536 counters comment\n\
             add DNAT-QKZ232OQBTIWIKSNIIHGODLM 192.0.2.0/24,tcp:80\n\
             create AAAAAAAAAAAAAAAAAAAAAAAA bitmap:port range 0-10\n\
             create BBBBBBBBBBBBBBBBBBBBBBBB hash:ip family inet6 hashsize 1024 maxelem 65536\n\
             create DNAT-short hash:net,port family inet hashsize 1024 maxelem 65536\n\
             create SN-EP hash:ip,port family inet hashsize 1024 maxelem 1048576\n",
        );
        assert_eq!(found.names, ["QKZ232OQBTIWIKSNIIHGODLM", "DNAT-QKZ232OQBTIWIKSNIIHGODLM"]);
        assert!(found.left.len() == 2 && found.left[0].contains("bitmap:port"), "{found:?}");
    }
}
