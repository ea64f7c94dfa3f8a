//! The state of the world as plain values: what the host looks like, what the cluster's objects say, how the border is configured.
//!
//! Nothing here knows Kubernetes' client, netlink or a kernel tool. Sources produce these values; [`crate::plan`] consumes them.

mod changes;
mod config;
mod dense;
mod few;
mod host;
mod local;
mod name;
mod net;
mod objects;

pub use changes::{Changed, ChangedObject, changes, changes_by};
pub use config::{
    BorderConfig, GatewayAddresses, GatewayOffsets, MarkLayout, MarkLayoutError, Opening, OpeningParseError,
    PerInterface,
};
pub use dense::Dense;
pub use few::{Few, FewByKey};
pub use host::{Host, InterfaceAddress, Link, LinkStack, MainRoute, Neighbour, NeighbourState, OwnStray, StrayKind};
pub use local::LocalRoutes;
pub use name::{
    MAX_ALTNAME, MAX_INTERFACE_NAME, UnusableName, check_interface_name, is_hidden, name_of_bytes, printable,
    printable_json, printable_lines, shell_word,
};
pub use net::{Endpoint, Family, InterfaceName, Protocol, host_net, is_default_route};
pub use objects::{
    EndpointSlice, Mapping, ObjectKey, Objects, Service, ServicePort, ServiceType, SliceEndpoint, SlicePort,
};

/// Everything a plan depends on. Equal worlds give equal plans.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    pub host: Host,
    /// `None` until every source has delivered its first complete snapshot.
    pub objects: Option<std::sync::Arc<Objects>>,
    /// Slots (1..) already given to the names of external interfaces, also of those that are away. See [`crate::plan::slots`].
    pub slots: std::collections::BTreeMap<InterfaceName, u16>,
}
