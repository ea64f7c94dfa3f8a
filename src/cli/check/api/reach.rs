//! Whether the API server answers, and its version.

use super::ask::{Asked, Trouble, TroubleKind};
use crate::cli::check::Finding;
use crate::cluster::{ConnectError, Way};
use crate::error_chain;
use crate::settings::ObjectSource;

const GROUP: &str = "api";
/// Minor versions of Kubernetes 1: the oldest that is supported, and the newest that was tested.
const OLDEST: u32 = 31;
const TESTED: u32 = 36;

/// Where no API is asked.
pub(super) fn not_asked(source: &ObjectSource) -> Option<Finding> {
    match source {
        ObjectSource::Manifests(dir) => Some(Finding::ok(
            GROUP,
            format!("objects come from the files in {}: the API is not looked at", dir.display()),
        )),
        ObjectSource::None => Some(Finding::warn(
            GROUP,
            "no source of objects is named: neither the API nor Mappings are looked at",
            "give check the daemon's settings: --kubeconfig FILE, or --manifests DIR",
        )),
        ObjectSource::Kubeconfig(_) | ObjectSource::InCluster => None,
    }
}

/// Whether a proxy leads there, and who says so.
pub(super) fn way(way: &Way) -> Finding {
    Finding::ok(GROUP, format!("the API server is asked {way}"))
}

pub(super) fn unusable(error: &ConnectError) -> Finding {
    // The message itself ends in the remedy; its causes follow.
    let whole = error.to_string();
    let (what, remedy) = whole.split_once("; ").unwrap_or((&whole, "correct it in the kubeconfig"));
    let cause = std::error::Error::source(error).map(|e| format!(": {}", error_chain(e))).unwrap_or_default();
    Finding::fail(GROUP, format!("{what}{cause}"), remedy)
}

/// `version`: what `/version` answered.
pub(super) fn evaluate(server: &str, version: &Asked) -> Finding {
    let reply = match version {
        Ok(reply) => reply,
        Err(trouble) => return away(server, trouble),
    };
    match reply.code {
        200 => {}
        401 => {
            return Finding::fail(
                GROUP,
                format!("{server} does not know who we are (401): the credential has expired or is another cluster's"),
                "make the kubeconfig anew with deploy/kubeconfig.sh",
            );
        }
        403 => {
            return Finding::fail(
                GROUP,
                format!("{server} does not tell its version (403): {}", reply.message()),
                "see that the ClusterRole system:public-info-viewer and its binding are there",
            );
        }
        code => {
            return Finding::fail(
                GROUP,
                format!("{server} answers {code} when asked for its version: {}", reply.message()),
                "see that this is a Kubernetes API server, and what its log (or that of a proxy before it) says",
            );
        }
    }
    let text = reply.body["gitVersion"].as_str().unwrap_or_default();
    let Some(minor) = minor(&reply.body["major"], &reply.body["minor"]) else {
        return Finding::fail(
            GROUP,
            format!("{server} tells no version of Kubernetes ({text:?})"),
            "see that the kubeconfig's server is a Kubernetes API server",
        );
    };
    if minor < OLDEST {
        return Finding::fail(
            GROUP,
            format!("Kubernetes {text} at {server} is too old"),
            format!("upgrade it to 1.{OLDEST} or newer: what validates Mappings needs that"),
        );
    }
    let newer = if minor > TESTED { format!(" (newer than 1.{TESTED}, the newest tested)") } else { String::new() };
    let took = reply.took.as_millis();
    Finding::ok(GROUP, format!("Kubernetes {text}{newer} at {server} answers in {took} ms"))
}

/// "36", or "36+" of some distributions. A major version after 1 counts as new.
fn minor(major: &serde_json::Value, minor: &serde_json::Value) -> Option<u32> {
    let major: u32 = major.as_str()?.parse().ok()?;
    let minor: u32 = minor.as_str()?.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()?;
    match major {
        0 => Some(0),
        1 => Some(minor),
        _ => Some(u32::MAX),
    }
}

fn away(server: &str, trouble: &Trouble) -> Finding {
    let text = &trouble.text;
    let (what, remedy) = match trouble.kind {
        TroubleKind::ConnectionRefused => (
            format!("nobody listens at {server} ({text})"),
            "start the API server, or correct the server's address in the kubeconfig",
        ),
        TroubleKind::Timeout => (
            format!("{server} does not answer ({text})"),
            "see that its address is right, that a route leads there through an inside interface, and that no firewall is between",
        ),
        TroubleKind::Unreachable => (
            format!("there is no way to {server} ({text})"),
            "add a route to the API server through the cluster interface, or correct its address in the kubeconfig",
        ),
        TroubleKind::Tls => (
            format!("TLS with {server} fails ({text})"),
            "correct certificate-authority and tls-server-name in the kubeconfig (deploy/kubeconfig.sh makes it anew); if the certificate is \
             not valid yet or no longer, look at this box's clock too",
        ),
        TroubleKind::Credential => (
            format!("there is no credential for {server} ({text})"),
            "correct the user in the kubeconfig: its token file or exec plugin; deploy/kubeconfig.sh makes it anew",
        ),
        TroubleKind::Other => (
            format!("{server} cannot be asked ({text})"),
            "see that the server's name resolves and that proxy settings (HTTPS_PROXY, NO_PROXY) are right",
        ),
    };
    Finding::fail(GROUP, what, remedy)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::super::ask::Reply;
    use super::*;
    use crate::cli::check::Level;

    fn asked(code: u16, body: Value) -> Finding {
        let took = Duration::from_millis(3);
        evaluate("https://api", &Ok(Reply { code, body, took }))
    }

    fn version(major: &str, minor: &str) -> Finding {
        asked(200, json!({"gitVersion": format!("v{major}.{minor}.0"), "major": major, "minor": minor}))
    }

    #[test]
    fn old_versions_fail_and_newer_ones_are_told() {
        assert_eq!(version("1", "36"), Finding::ok(GROUP, "Kubernetes v1.36.0 at https://api answers in 3 ms"));
        assert_eq!(version("1", "31+").level, Level::Ok);
        let old = version("1", "30");
        assert!(old.level == Level::Fail && old.remedy.contains("1.31"), "{old:?}");
        let new = version("1", "37");
        assert!(new.level == Level::Ok && new.what.contains("newer than 1.36"), "{new:?}");
        assert_eq!(version("2", "0").level, Level::Ok);
        assert_eq!(asked(200, json!({"hello": "world"})).level, Level::Fail);
    }

    #[test]
    fn each_trouble_has_its_remedy() {
        let refused = asked(401, json!({"message": "Unauthorized"}));
        assert!(refused.level == Level::Fail && refused.remedy.contains("kubeconfig.sh"), "{refused:?}");
        let away = |kind| evaluate("https://api", &Err(Trouble { kind, text: "because".to_owned() }));
        for (kind, remedy) in [
            (TroubleKind::ConnectionRefused, "start the API server"),
            (TroubleKind::Timeout, "firewall"),
            (TroubleKind::Unreachable, "route"),
            (TroubleKind::Tls, "certificate-authority"),
            (TroubleKind::Credential, "token file"),
            (TroubleKind::Other, "resolves"),
        ] {
            let f = away(kind);
            assert!(f.level == Level::Fail && f.what.contains("because") && f.remedy.contains(remedy), "{f:?}");
        }
    }
}
