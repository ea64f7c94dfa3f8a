//! What goes by netlink, against the real kernel: every test has a network namespace of its own.

mod conntrack;
mod host;
mod netns;
mod overrun;
mod routing;
mod stack;
mod tables;
