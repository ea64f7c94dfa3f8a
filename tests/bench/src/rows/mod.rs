mod again;
mod api;
mod change;
mod growth;
mod idle;
mod packets;
mod refresh;
mod start;

use crate::Options;
use crate::figures::Figures;

/// One of the things that are measured.
pub struct Row {
    pub name: &'static str,
    pub about: &'static str,
    pub measure: fn(&Options, &mut Figures),
}

pub const ROWS: &[Row] = &[
    Row {
        name: "start-files",
        about: "start to ready from manifests, against the same tables loaded by hand; memory",
        measure: start::from_files,
    },
    Row {
        name: "change-files",
        about: "one Mapping, or one endpoint, changed among 10,000, by a manifest that is replaced",
        measure: change::from_files,
    },
    Row {
        name: "start-api",
        about: "start to ready from the API server; then single changes by a patch",
        measure: api::start,
    },
    Row {
        name: "again",
        about: "start over what is there: an upgrade, a restart, another masquerade setting; cleanup",
        measure: again::measure,
    },
    Row { name: "hundred", about: "100,000 endpoints: start to ready and memory", measure: start::hundred_thousand },
    Row {
        name: "refresh",
        about: "refreshes at 10,000 endpoints: nobody changed anything, somebody did, others commit elsewhere",
        measure: refresh::measure,
    },
    Row {
        name: "status",
        about: "statuses of 1,000 fresh Mappings, and 1,000 deleted ones gone, in the API server",
        measure: api::status,
    },
    Row {
        name: "packets",
        about: "new flows and established TCP to the worst placed of 10,000 endpoints, against one plain DNAT rule",
        measure: packets::measure,
    },
    Row { name: "idle", about: "an idle daemon at 1,000 Mappings", measure: idle::measure },
    Row { name: "growth", about: "cost as size grows tenfold, fitted and plotted", measure: growth::measure },
];
