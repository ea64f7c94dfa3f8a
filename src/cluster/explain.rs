//! Errors of the Kubernetes client in words for people: who did not answer or refused, and what to do.

use std::error::Error as _;
use std::io;

use kube::core::Status;

use super::RequestError;
use crate::error_chain;

/// What went wrong with a request to `server`.
pub fn explain(error: &kube::Error, server: &str) -> String {
    match error {
        kube::Error::Api(status) => explain_status(status, server),
        kube::Error::Auth(e) => {
            format!("no credential for the API server {server}: {}; see `users` in the kubeconfig", error_chain(e))
        }
        kube::Error::SerdeError(e) => format!(
            "what the API server {server} answered cannot be read ({e}); is it Kubernetes, and no older than this program supports?"
        ),
        _ => match certificate_error(error) {
            Some(rustls::Error::InvalidCertificate(wrong)) => format!(
                "the certificate of the API server {server} is not accepted ({wrong}); see certificate-authority and server in the \
                 kubeconfig, and the clocks of both machines"
            ),
            Some(tls) => {
                format!("no TLS connection to the API server {server}: {tls}; see the kubeconfig's certificates")
            }
            None => format!("the API server {server} does not answer: {}", cause(error)),
        },
    }
}

/// As [`explain`].
pub fn explain_request(error: &RequestError, server: &str) -> String {
    match error {
        RequestError::Silent(_) => format!("the API server {server} does not answer: {error}"),
        RequestError::Kube(error) => explain(error, server),
    }
}

pub fn explain_status(status: &Status, server: &str) -> String {
    let message = status.message.trim();
    match status.code {
        401 if !is_denied(message) => format!(
            "the API server {server} does not accept the credential (401): it has expired or was revoked; make a new kubeconfig by \
             deploy/kubeconfig.sh"
        ),
        403 if message.contains("\"system:anonymous\"") => {
            format!("the API server {server} was shown no credential: {message}; see `users` in the kubeconfig")
        }
        _ if is_denied(message) => refused(status),
        403 if lacks_right(message) => format!("not allowed: {message}; apply deploy/rbac.yaml"),
        403 => refused(status),
        429 | 503 => format!("the API server {server} is overloaded or not ready ({}): {message}", status.code),
        code => format!("the API server {server} answered {code}: {message}"),
    }
}

/// The reason that the client gives where an answer is no Status of Kubernetes.
const UNREAD: &str = "Failed to parse error data";

/// What to do about a 403 that tells of no missing right.
pub fn remedy(status: &Status) -> &'static str {
    if status.reason == UNREAD {
        return "these are not the API server's words: ask who keeps the proxies and gateways on the way to it";
    }
    "no right is missing: ask who keeps the cluster's admission policies, webhooks and quotas to let smartnat-manager do it"
}

/// A refusal of this one request, in words.
fn refused(status: &Status) -> String {
    format!("refused ({}): {}; {}", status.code, status.message.trim(), remedy(status))
}

/// Whether a 403 says that the user has no right to do such a thing at all, to whatever object. The API server words it itself, whoever
/// decided: `mappings "web" is forbidden: User "x" cannot patch resource "mappings" …`. What admission refuses has a text of its own behind
/// the same beginning.
pub fn lacks_right(message: &str) -> bool {
    let (_, why) = message.split_once("forbidden: ").unwrap_or(("", message));
    why.starts_with("User \"") && why.contains(" cannot ") && !is_denied(message)
}

/// Whether an admission policy or webhook refused this one object. Its author chooses the code: 403, 422 and others.
pub fn is_denied(message: &str) -> bool {
    let (_, why) = message.split_once("forbidden: ").unwrap_or(("", message));
    (message.starts_with("admission webhook \"") || why.starts_with("ValidatingAdmissionPolicy '"))
        && message.contains(" denied ")
}

fn certificate_error(error: &kube::Error) -> Option<&rustls::Error> {
    let mut source = error.source();
    while let Some(mut cause) = source {
        // An I/O error hides the error that it wraps from the chain, and goes on with that one's cause.
        while let Some(wrapped) = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            cause = wrapped;
        }
        if let Some(tls) = cause.downcast_ref() {
            return Some(tls);
        }
        source = cause.source();
    }
    None
}

/// The innermost cause says it best: "Connection refused", not "client error (Connect)".
fn cause(error: &kube::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    if innermost.is::<tower::timeout::error::Elapsed>() {
        return "it takes connections, but no answer begins".to_owned();
    }
    match innermost.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) => {
            "the connection was cut".to_owned()
        }
        _ => innermost.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "https://10.0.0.1:6443";

    fn status(code: u16, message: &str) -> kube::Error {
        kube::Error::Api(Status { code, message: message.to_owned(), ..Status::default() }.boxed())
    }

    #[test]
    fn refusals_say_what_to_do() {
        let text = explain(&status(401, "Unauthorized"), SERVER);
        assert!(text.contains(SERVER) && text.contains("deploy/kubeconfig.sh"), "{text}");
        let text = explain(&status(403, "User \"x\" cannot list resource \"mappings\""), SERVER);
        assert!(text.contains("cannot list") && text.contains("deploy/rbac.yaml"), "{text}");
        let text = explain(&status(403, "User \"system:anonymous\" cannot list"), SERVER);
        assert!(text.contains("no credential"), "{text}");
    }

    #[test]
    fn a_missing_right_is_told_from_a_refusal_of_one_object() {
        let rights = [
            "mappings.smartnat.aureacentral.com \"web\" is forbidden: User \"u\" cannot patch resource \"mappings\" in API group \
             \"smartnat.aureacentral.com\" in the namespace \"shop\"",
            "forbidden: User \"u\" cannot get path \"/version\"",
            "leases is forbidden: User \"u\" cannot create resource \"leases\": Azure does not have opinion for this user",
        ];
        for message in rights {
            assert!(lacks_right(message) && !is_denied(message), "{message}");
            let text = explain(&status(403, message), SERVER);
            assert!(text.contains("deploy/rbac.yaml"), "{text}");
        }
        let denials = [
            "mappings.smartnat.aureacentral.com \"web\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: \
             User \"u\" cannot patch it",
            "admission webhook \"w.example.com\" denied the request: forbidden: User \"u\" cannot patch resource",
        ];
        for message in denials {
            assert!(!lacks_right(message) && is_denied(message), "{message}");
        }
        let quota = "leases \"b\" is forbidden: exceeded quota: q, requested: count/leases=1, used: 0, limited: 0";
        let others = [
            quota,
            "leases \"b\" is forbidden: unable to create new content in namespace x because it is being terminated",
        ];
        for (code, message) in
            denials.iter().flat_map(|m| [(403, m), (401, m), (422, m)]).chain(others.iter().map(|m| (403, m)))
        {
            let text = explain(&status(code, message), SERVER);
            assert!(!text.contains("rbac") && !text.contains("kubeconfig"), "{text}");
            assert!(text.contains(message) && text.contains("no right is missing"), "{text}");
        }
    }

    #[test]
    fn what_stands_ahead_of_the_server_is_not_taken_for_its_policies() {
        let page = Status::failure("<html>Access denied</html>", UNREAD).with_code(403).boxed();
        let text = explain(&kube::Error::Api(page), SERVER);
        assert!(text.contains("Access denied") && text.contains("proxies and gateways"), "{text}");
        assert!(!text.contains("no right is missing") && !text.contains("rbac"), "{text}");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_told_with_the_innermost_cause_once() {
        // Nobody listens on port 1 of the loopback.
        let mut config = kube::Config::new("https://127.0.0.1:1".parse().unwrap());
        config.default_retry = false;
        // Nobody answers whose certificate would have to be judged, and the system's authorities are not everywhere.
        config.root_cert = Some(Vec::new());
        let client = kube::Client::try_from(config).unwrap();
        let error = client.apiserver_version().await.unwrap_err();
        let text = explain(&error, SERVER);
        assert!(text.ends_with("does not answer: Connection refused (os error 111)"), "{text}");
    }
}
