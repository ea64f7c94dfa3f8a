use super::*;
use crate::model::*;
pub struct Resolution {
    pub served: Vec<ResolvedMapping>,
    pub refused: BTreeMap<ObjectKey, Refusal>,
}
pub fn resolve(_: &BorderConfig, _: &Objects) -> Resolution {
    Resolution { served: vec![], refused: BTreeMap::new() }
}
