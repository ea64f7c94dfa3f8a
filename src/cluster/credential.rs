//! By what this instance is known to the API server, and until when.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use kube::config::AuthInfo;
use secrecy::ExposeSecret;
use serde::Deserialize;
use x509_cert::Certificate;
use x509_cert::time::Time;

use super::config::{self, Setup};
use super::{ConnectError, token};
use crate::settings::ObjectSource;

const DAY: SignedDuration = SignedDuration::from_hours(24);
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What a kubeconfig or a ServiceAccount shows to the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    pub kind: CredentialKind,
    /// Since when it is valid, if it says so.
    pub begins: Option<Timestamp>,
    /// Until when it is valid, if it says so.
    pub expires: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialKind {
    ClientCertificate,
    /// In the kubeconfig itself.
    Token,
    /// Read again when the file changes.
    TokenFile(PathBuf),
    /// A program that is asked for a credential, and again in time.
    Exec(String),
    /// User name and password, or a provider built into the client.
    Other,
}

impl CredentialKind {
    pub fn as_str(&self) -> &'static str {
        match self {
            CredentialKind::ClientCertificate => "client certificate",
            CredentialKind::Token => "token",
            CredentialKind::TokenFile(_) => "token file",
            CredentialKind::Exec(_) => "exec plugin",
            CredentialKind::Other => "other",
        }
    }

    /// How a person renews it.
    pub fn remedy(&self) -> String {
        match self {
            CredentialKind::TokenFile(file) => {
                format!("see why nothing renews {} (in a pod the kubelet does)", file.display())
            }
            CredentialKind::Exec(command) => format!("see what {command} answers"),
            _ => "make a new kubeconfig by deploy/kubeconfig.sh; it is read as soon as it is there".to_owned(),
        }
    }
}

impl Credential {
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|e| e <= now)
    }

    /// Whether somebody should renew it: a fifth of its time is left (seven days at the most; of a credential that lives for some days, one
    /// day). What something else renews in time only warns when that is overdue.
    pub fn is_due(&self, now: Timestamp) -> bool {
        let Some(expires) = self.expires else { return false };
        let lifetime = self.begins.map(|b| expires.duration_since(b));
        let limit = match (&self.kind, lifetime) {
            (_, None) => DAY,
            // The kubelet renews at four fifths.
            (CredentialKind::TokenFile(_), Some(all)) => (all / 10).min(WEEK),
            (_, Some(all)) if all > DAY * 2 => (all / 5).clamp(DAY, WEEK),
            (_, Some(all)) => all / 5,
        };
        expires.duration_since(now) < limit
    }

    /// When it expires or has expired, in words.
    pub fn expiry(&self, now: Timestamp) -> String {
        let kind = self.kind.as_str();
        let Some(expires) = self.expires else {
            return format!("the {kind} for the API server does not tell when it expires");
        };
        let left = expires.duration_since(now);
        if !left.is_positive() {
            return format!("the {kind} for the API server has expired at {expires}");
        }
        let (amount, unit) = match left.as_secs() {
            s if s >= 2 * 86_400 => (s / 86_400, "days"),
            s if s >= 2 * 3_600 => (s / 3_600, "hours"),
            s => (s / 60, "minutes"),
        };
        format!("the {kind} for the API server expires at {expires}, in {amount} {unit}")
    }
}

/// The credential that a source of objects names; `None` when it names none (manifests need none, and a kubeconfig may lack it).
pub async fn of(source: &ObjectSource) -> Result<Option<Credential>, ConnectError> {
    if matches!(source, ObjectSource::Manifests(_) | ObjectSource::None) {
        return Ok(None);
    }
    Ok(of_setup(&config::read(source).await?))
}

/// In the order in which the client uses them.
pub(super) fn of_setup(setup: &Setup) -> Option<Credential> {
    let user = &setup.config.auth_info;
    if let Some(pem) = config::client_certificate(user) {
        let (begins, expires) = certificate_times(&pem).map_or((None, None), |(b, e)| (Some(b), Some(e)));
        return Some(Credential { kind: CredentialKind::ClientCertificate, begins, expires });
    }
    let (kind, text) = match user {
        AuthInfo { token: Some(token), .. } => (CredentialKind::Token, Some(token.expose_secret().to_owned())),
        AuthInfo { username: Some(_), .. } => (CredentialKind::Other, None),
        AuthInfo { exec: Some(exec), .. } => {
            (CredentialKind::Exec(exec.command.clone().unwrap_or_else(|| "the exec plugin".to_owned())), None)
        }
        AuthInfo { auth_provider: Some(_), .. } => (CredentialKind::Other, None),
        _ => {
            let file = setup.token_file.clone()?;
            let text = token::read(&file).ok();
            (CredentialKind::TokenFile(file), text)
        }
    };
    let (begins, expires) = text.and_then(|t| token_times(&t)).unwrap_or_default();
    Some(Credential { kind, begins, expires })
}

/// notBefore and notAfter of the first certificate.
fn certificate_times(pem: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let chain = Certificate::load_pem_chain(pem).ok()?;
    let validity = chain.first()?.tbs_certificate().validity();
    let timestamp = |t: Time| Timestamp::from_second(i64::try_from(t.to_unix_duration().as_secs()).ok()?).ok();
    Some((timestamp(validity.not_before)?, timestamp(validity.not_after)?))
}

/// Claims of a JSON Web Token (RFC 7519), in seconds since the epoch.
#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
    iat: Option<f64>,
    nbf: Option<f64>,
}

/// Begin and end of a token that tells them. Nothing is verified: that is the API server's part.
fn token_times(token: &str) -> Option<(Option<Timestamp>, Option<Timestamp>)> {
    let payload = token.trim().split('.').nth(1)?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?).ok()?;
    let timestamp = |seconds: f64| Timestamp::from_second(seconds as i64).ok();
    Some((claims.iat.or(claims.nbf).and_then(timestamp), claims.exp.and_then(timestamp)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn credential(kind: CredentialKind, begins: Option<i64>, expires: i64) -> Credential {
        Credential { kind, begins: begins.map(at), expires: Some(at(expires)) }
    }

    #[test]
    fn a_token_tells_its_times_and_an_opaque_one_does_not() {
        let token = |claims: &str| format!("x.{}.y", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(token_times(&token(r#"{"iat":100,"exp":3700,"iss":"k"}"#)), Some((Some(at(100)), Some(at(3700)))));
        assert_eq!(token_times(&token(r#"{"sub":"legacy"}"#)), Some((None, None)));
        assert_eq!(token_times("opaque"), None);
    }

    #[test]
    fn it_is_due_in_the_last_fifth_but_a_year_warns_a_week_ahead_and_a_week_a_day_ahead() {
        let day = 86_400;
        for (lifetime, limit) in
            [(3_600, 720), (day, day / 5), (3 * day, day), (7 * day, 7 * day / 5), (365 * day, 7 * day)]
        {
            let c = credential(CredentialKind::ClientCertificate, Some(0), lifetime);
            assert!(!c.is_due(at(lifetime - limit)) && c.is_due(at(lifetime - limit + 1)), "{lifetime}");
        }
        let unknown = credential(CredentialKind::Token, None, 10 * day);
        assert!(!unknown.is_due(at(9 * day)) && unknown.is_due(at(9 * day + 1)));
    }

    #[test]
    fn the_expiry_is_told_with_its_time_and_what_is_left() {
        let c = credential(CredentialKind::Token, None, 200_000);
        assert_eq!(c.expiry(at(0)), "the token for the API server expires at 1970-01-03T07:33:20Z, in 2 days");
        assert_eq!(c.expiry(at(200_000)), "the token for the API server has expired at 1970-01-03T07:33:20Z");
    }

    #[test]
    fn a_token_file_that_is_renewed_in_time_is_never_due() {
        let c = credential(CredentialKind::TokenFile("token".into()), Some(0), 3_600);
        assert!(!c.is_due(at(3_600 * 4 / 5 + 60)));
        assert!(c.is_due(at(3_300)) && !c.is_expired(at(3_300)) && c.is_expired(at(3_600)));
    }
}
