//! `smartnat::trace` on a whole border: against what is known to be right, and against the kernel.

mod command;
mod kernel;
mod packets;
mod reference;
