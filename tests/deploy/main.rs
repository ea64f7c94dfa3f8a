//! What deploy/ installs, as far as no machine has to be booted for it.

mod box_tree;
mod files;
mod install;
