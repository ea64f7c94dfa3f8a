//! Until when the API server knows us.

use jiff::Timestamp;

use crate::cli::check::Finding;
use crate::cluster::credential::Credential;

const GROUP: &str = "credential";

pub(super) fn evaluate(credential: Option<&Credential>, now: Timestamp) -> Finding {
    let Some(credential) = credential else {
        return Finding::fail(
            GROUP,
            "the kubeconfig names no credential: the API server takes us for anybody",
            "make it anew with deploy/kubeconfig.sh",
        );
    };
    let kind = credential.kind.as_str();
    let remedy = credential.kind.remedy();
    let Some(expires) = credential.expires else {
        return Finding::ok(GROUP, format!("{kind}; it does not tell when it expires"));
    };
    if credential.is_expired(now) {
        return Finding::fail(GROUP, format!("{kind}, expired since {expires}"), remedy);
    }
    if let Some(begins) = credential.begins.filter(|begins| *begins > now) {
        return Finding::warn(
            GROUP,
            format!("{kind}, not valid before {begins}, while it is {now:.0} on this box"),
            "set this box's clock right",
        );
    }
    let left = credential.left(now).map_or(0, |left| left.as_secs());
    let what = format!("{kind}, expires in {} ({expires})", span(left));
    if credential.is_due(now) { Finding::warn(GROUP, what, remedy) } else { Finding::ok(GROUP, what) }
}

/// One number for people.
fn span(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match seconds {
        s if s >= 2 * DAY => format!("{} days", s / DAY),
        s if s >= 2 * HOUR => format!("{} hours", s / HOUR),
        s => format!("{} minutes", s / MINUTE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Level;
    use crate::cluster::credential::CredentialKind;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn token(begins: i64, expires: i64) -> Credential {
        Credential { kind: CredentialKind::Token, begins: Some(at(begins)), expires: Some(at(expires)) }
    }

    #[test]
    fn expired_due_and_good_credentials_are_told_apart() {
        let day = 86_400;
        let of = |now: i64| evaluate(Some(&token(0, 100 * day)), at(now));
        assert_eq!(of(10 * day), Finding::ok(GROUP, "token, expires in 90 days (1970-04-11T00:00:00Z)"));
        let due = of(99 * day);
        assert!(due.level == Level::Warn && due.what.contains("in 24 hours") && due.remedy.contains("kubeconfig.sh"));
        assert_eq!(of(100 * day).level, Level::Fail);
        assert!(of(-60).level == Level::Warn && of(-60).remedy.contains("clock"), "{:?}", of(-60));
        assert_eq!(evaluate(None, at(0)).level, Level::Fail);
        assert_eq!(evaluate(Some(&Credential { expires: None, ..token(0, 0) }), at(0)).level, Level::Ok);
    }
}
