//! The Kubernetes API as the place that instances share: how it is reached, what stands in it about Mappings, and who else is there.
//!
//! [`crate::sources::kubernetes`] reads objects from it; [`crate::publish`] answers in it.

mod fleet;
mod record;

pub use fleet::{Fleet, Standing};
pub use record::{Record, RecordEvent};

/// Holds a deleted Mapping back until every instance has withdrawn it. The name is the first SmartNat's, whose objects carry it.
pub const FINALIZER: &str = "mapping.finalizers.aureacentral.com";

/// The field manager by which an instance applies its part of a status: one for each instance, of at most 128 characters, as the API server
/// demands.
pub fn field_manager(instance: &str) -> String {
    const PREFIX: &str = "smartnat-";
    const LONGEST: usize = 128 - PREFIX.len();
    if instance.len() <= LONGEST {
        return format!("{PREFIX}{instance}");
    }
    // Instance names are ASCII. Two long names may share their beginning, hence the digest.
    let digest = crate::ruleset::ownership::digest(instance);
    format!("{PREFIX}{}-{digest}", &instance[..LONGEST - 1 - digest.len()])
}

/// Whether a field manager is one of [`field_manager`]'s.
pub fn is_field_manager(name: &str) -> bool {
    name.starts_with("smartnat-") && name != "smartnat-manager"
}
