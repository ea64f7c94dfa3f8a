//! Objects from files: Mappings, Services and EndpointSlices from every `*.yaml`, `*.yml` and `*.json` directly in one directory.
//!
//! The directory counts as a whole: what its files say together is one set of objects. A file that cannot be used is named, and what it
//! said when it last could be used stays in force, so that a slip of the pen never takes a running Mapping away.

mod directory;
mod document;
mod file;
mod parse;
mod stream;
mod strict;
#[cfg(test)]
mod tests;
mod together;
mod watch;

pub use directory::{BrokenFile, LoadError, load_dir};
pub use watch::{SOURCE, run};
