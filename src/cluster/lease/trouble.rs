use std::time::Duration;

use crate::cluster::explain::{is_denied, lacks_right, remedy};
use crate::error_chain;

/// Why a Lease could not be read or written, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing is known of the API server's mind: it did not answer, or not as one that is well.
    Away(String),
    /// It answered, and no Lease is to be had.
    Denied(String),
    /// What was to be written to, or where, is not there.
    Missing(String),
    /// Somebody wrote in between.
    Conflict,
}

impl Trouble {
    pub fn of(error: &kube::Error, namespace: &str) -> Trouble {
        match error {
            kube::Error::Api(status) => match status.code {
                code if is_denied(&status.message) || (code == 403 && !lacks_right(&status.message)) => {
                    Trouble::Denied(format!("{}; {}", status.message, remedy(status)))
                }
                401 => Trouble::Away(format!(
                    "the API server does not accept this credential ({}); make the kubeconfig anew (deploy/kubeconfig.sh)",
                    status.message
                )),
                408 | 429 | 500.. => {
                    Trouble::Away(format!("the API server answers {}: {}", status.code, status.message))
                }
                403 => Trouble::Denied(format!("{}; `kubectl apply -k deploy/` gives the rights", status.message)),
                404 => Trouble::Missing(format!(
                    "{}; `kubectl apply -k deploy/` makes the namespace {namespace}, SNCTRLR_NAMESPACE names another",
                    status.message
                )),
                409 => Trouble::Conflict,
                code => Trouble::Denied(format!("the API server answers {code}: {}", status.message)),
            },
            // Its own text repeats that of its cause.
            kube::Error::Service(cause) => Trouble::Away(format!("no answer: {}", error_chain(cause.as_ref()))),
            other => Trouble::Away(format!("no answer: {}", error_chain(other))),
        }
    }

    pub fn late(patience: Duration) -> Trouble {
        Trouble::Away(format!("no answer within {} s", patience.as_secs()))
    }
}
