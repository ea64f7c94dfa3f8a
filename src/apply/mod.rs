//! (under construction)

pub mod conntrack;
pub mod routing;
