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
    let (what, remedy) = (credential.expiry(now), credential.kind.remedy());
    if credential.is_expired(now) {
        return Finding::fail(GROUP, what, remedy);
    }
    if let Some(begins) = credential.begins.filter(|begins| *begins > now) {
        let kind = credential.kind.as_str();
        return Finding::warn(
            GROUP,
            format!("the {kind} is not valid before {begins}, while it is {now:.0} on this box"),
            "set this box's clock right",
        );
    }
    if credential.is_due(now) { Finding::warn(GROUP, what, remedy) } else { Finding::ok(GROUP, what) }
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
        assert!(of(10 * day).level == Level::Ok && of(10 * day).what.contains("1970-04-11"), "{:?}", of(10 * day));
        let due = of(99 * day);
        assert!(due.level == Level::Warn && due.remedy.contains("kubeconfig.sh"));
        assert_eq!(of(100 * day).level, Level::Fail);
        assert!(of(-60).level == Level::Warn && of(-60).remedy.contains("clock"), "{:?}", of(-60));
        assert_eq!(evaluate(None, at(0)).level, Level::Fail);
        assert_eq!(evaluate(Some(&Credential { expires: None, ..token(0, 0) }), at(0)).level, Level::Ok);
    }
}
