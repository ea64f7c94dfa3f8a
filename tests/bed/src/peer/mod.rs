//! What pods and clients do, as functions of a thread that already is in the right namespace.

mod answer;
mod client;
mod flood;
mod pattern;
mod serve;
mod stream;

pub use answer::Answer;
pub use client::{Failure, Request, Upload, connect};
pub use flood::{Flood, FloodReport};
pub use pattern::Pattern;
pub use serve::Server;
pub use stream::{Stream, StreamReport};

use std::fmt;
use std::str::FromStr;

/// Transport protocol of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proto {
    Tcp,
    Udp,
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        })
    }
}

impl FromStr for Proto {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "tcp" => Ok(Proto::Tcp),
            "udp" => Ok(Proto::Udp),
            _ => Err(format!("{s:?} is neither tcp nor udp")),
        }
    }
}
