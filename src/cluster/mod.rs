//! The Kubernetes API as the place that instances share: how it is reached, what stands in it about Mappings, and who else is there.
//!
//! [`crate::sources::kubernetes`] reads objects from it; [`crate::publish`] answers in it.

pub mod clock;
mod config;
pub mod credential;
mod explain;
mod fleet;
pub mod forget;
mod keep;
pub mod lease;
pub mod machine;
mod plugin;
mod proxy;
mod record;
mod renewal;
mod request;
mod session;
mod token;

use sha2::{Digest, Sha256};

pub use explain::{explain, explain_request, explain_status, is_denied, lacks_right, remedy};
pub use fleet::{Fleet, Standing};
pub use keep::run as keep_session;
pub use proxy::Way;
pub use record::{KeptRecord, Record, RecordEvent, owns_status_as_foreigner};
pub use request::{RequestError, within};
pub use session::{ConnectError, Session, Sessions, WATCH_SECONDS, connect};

/// Field managers of instances begin so.
const FIELD_MANAGER_PREFIX: &str = "smartnat.aureacentral.com/";

/// Holds a deleted Mapping back until every instance has withdrawn it. The name is the first SmartNat's, whose objects carry it.
pub const FINALIZER: &str = "mapping.finalizers.aureacentral.com";

/// The field manager by which an instance applies its part of a status: one for each instance, of at most 128 characters, as the API server
/// demands.
pub fn field_manager(instance: &str) -> String {
    const LONGEST: usize = 128 - FIELD_MANAGER_PREFIX.len();
    if instance.len() <= LONGEST {
        return format!("{FIELD_MANAGER_PREFIX}{instance}");
    }
    // Two long names may share their beginning. Instance names are ASCII.
    let digest: String = Sha256::digest(instance.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{FIELD_MANAGER_PREFIX}{}-{digest}", &instance[..LONGEST - 1 - digest.len()])
}

/// Whether a field manager is an instance's.
pub fn is_field_manager(name: &str) -> bool {
    name.starts_with(FIELD_MANAGER_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_managers_fit_the_api_and_tell_instances_apart() {
        assert_eq!(field_manager("border-1"), "smartnat.aureacentral.com/border-1");
        let long = |end: &str| field_manager(&format!("{}{end}", "a".repeat(240)));
        assert_eq!(long("x").len(), 128);
        assert_ne!(long("x"), long("y"));
        assert!(is_field_manager(&long("x")) && !is_field_manager("smartnat-manager"));
    }
}
